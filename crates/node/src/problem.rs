//! The errors a node makes itself, as problem documents (RFC 9457).

use http::{HeaderValue, Response, StatusCode, header};
use ringway_proxy::{Body, Problem, Reason};
use ringway_topology::Partition;
use serde_json::json;

use crate::precondition::Etag;
use crate::store::StoreError;

/// The methods a key understands.
pub const ALLOW: &str = "GET, HEAD, PUT, DELETE";

/// Why a node did not do what it was asked for: the reasons it shares with every router, and its own.
///
/// Status, label and title come from here by exhaustive matches, as they do for [`Reason`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// A reason that a router has too.
    Shared(Reason),
    /// There is no such key.
    NoSuchKey,
    /// The method means nothing here.
    Method,
    /// A value must be announced by `Content-Length` or sent chunked.
    LengthRequired,
    /// `If-Match` or `If-None-Match` is not a list of entity tags.
    ConditionMalformed,
    /// The condition does not hold.
    ConditionFailed,
    /// `Content-Type` is too long or holds control characters.
    ContentType,
    /// A coded value: the coding would be lost, as only the media type is kept.
    ContentCoding,
    /// A part of a value.
    PartialPut,
    /// `Ringway-Partition` or `Ringway-Epoch` is missing, repeated or no number, or `Ringway-Request-Id` is malformed.
    ContractMalformed,
    /// The key is not in the partition that `Ringway-Partition` names.
    PartitionMismatch,
    /// This node is not the partition's owner at this epoch.
    WrongOwner,
    /// The router's epoch is above what this node knows of.
    ClaimBehind,
    /// Too much is pending in the partition, or in the node.
    PartitionBusy,
    /// The write was appended, and whether it takes effect is not known.
    WriteUnknown,
    /// The write's id is older than what is remembered of its router.
    RequestForgotten,
    /// The stored bytes do not match their checksum.
    Corrupt,
    /// The storage engine failed.
    StoreFailed,
    /// The queue of writes is full.
    StoreBusy,
    /// The disk is full.
    DiskFull,
}

impl Refusal {
    /// Every refusal that is the node's own, once.
    #[cfg(test)]
    pub(crate) const OWN: [Self; 19] = [
        Self::NoSuchKey,
        Self::Method,
        Self::LengthRequired,
        Self::ConditionMalformed,
        Self::ConditionFailed,
        Self::ContentType,
        Self::ContentCoding,
        Self::PartialPut,
        Self::ContractMalformed,
        Self::PartitionMismatch,
        Self::WrongOwner,
        Self::ClaimBehind,
        Self::PartitionBusy,
        Self::WriteUnknown,
        Self::RequestForgotten,
        Self::Corrupt,
        Self::StoreFailed,
        Self::StoreBusy,
        Self::DiskFull,
    ];

    /// The HTTP status.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::Shared(reason) => {
                StatusCode::from_u16(reason.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
            }
            Self::NoSuchKey => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::LengthRequired => StatusCode::LENGTH_REQUIRED,
            Self::ConditionMalformed
            | Self::PartialPut
            | Self::ContractMalformed
            | Self::PartitionMismatch
            | Self::ContentType => StatusCode::BAD_REQUEST,
            Self::ConditionFailed => StatusCode::PRECONDITION_FAILED,
            Self::ContentCoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::WrongOwner => StatusCode::MISDIRECTED_REQUEST,
            Self::Corrupt | Self::StoreFailed => StatusCode::INTERNAL_SERVER_ERROR,
            Self::ClaimBehind => StatusCode::TOO_EARLY,
            Self::RequestForgotten => StatusCode::CONFLICT,
            Self::StoreBusy | Self::PartitionBusy | Self::WriteUnknown => StatusCode::SERVICE_UNAVAILABLE,
            Self::DiskFull => StatusCode::INSUFFICIENT_STORAGE,
        }
    }

    /// Whether it is what an owner finds when it looks at its data, and so as good an answer as any.
    pub(crate) fn is_served(self) -> bool {
        matches!(self, Self::NoSuchKey | Self::ConditionFailed)
    }

    /// The stable name: `reason` of the problem document and metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Shared(reason) => reason.label(),
            Self::NoSuchKey => "no_such_key",
            Self::Method => "method_not_allowed",
            Self::LengthRequired => "length_required",
            Self::ConditionMalformed => "condition_malformed",
            Self::ConditionFailed => "condition_failed",
            Self::ContentType => "content_type_malformed",
            Self::ContentCoding => "content_coding_unsupported",
            Self::PartialPut => "partial_put_unsupported",
            Self::ContractMalformed => "contract_malformed",
            Self::PartitionMismatch => "partition_mismatch",
            Self::WrongOwner => "wrong_owner",
            Self::ClaimBehind => "claim_behind",
            Self::PartitionBusy => "partition_busy",
            Self::WriteUnknown => "write_unknown",
            Self::RequestForgotten => "request_forgotten",
            Self::Corrupt => "corrupt_value",
            Self::StoreFailed => "store_failed",
            Self::StoreBusy => "store_busy",
            Self::DiskFull => "disk_full",
        }
    }

    /// One short sentence for people.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Shared(reason) => reason.title(),
            Self::NoSuchKey => "There is no such key",
            Self::Method => "A key understands GET, HEAD, PUT and DELETE",
            Self::LengthRequired => "A value needs Content-Length or Transfer-Encoding: chunked",
            Self::ConditionMalformed => "The condition is not a list of entity tags",
            Self::ConditionFailed => "The stored value does not meet the condition",
            Self::ContentType => "The content type is too long or malformed",
            Self::ContentCoding => "Values are stored without a content coding",
            Self::PartialPut => "A value is stored whole or not at all",
            Self::ContractMalformed => {
                "Ringway-Partition and Ringway-Epoch must both be one number, and Ringway-Request-Id an id"
            }
            Self::PartitionMismatch => "The key is not in the partition that Ringway-Partition names",
            Self::WrongOwner => "This node is not the owner of the partition at this epoch",
            Self::ClaimBehind => "This node does not know of that epoch yet",
            Self::PartitionBusy => "Too much is pending; try again",
            Self::WriteUnknown => "The write may take effect or not; repeat it with the same request id",
            Self::RequestForgotten => "The request id is older than what is remembered",
            Self::Corrupt => "The stored value is damaged and is not served",
            Self::StoreFailed => "The storage engine failed",
            Self::StoreBusy => "Too many writes wait for the disk",
            Self::DiskFull => "The disk is full; reads go on",
        }
    }

    /// The answer. `node` is who answers.
    #[must_use]
    pub(crate) fn response(self, node: &str, detail: &Detail<'_>) -> Response<Body> {
        if let Self::Shared(reason) = self {
            let Detail { text, partition, current: _ } = *detail;
            return Problem { detail: text, partition, ..Problem::new(reason) }.response(node);
        }
        let label = self.label();
        let mut document = json!({
            "type": format!("urn:ringway:problem:{label}"),
            "title": self.title(),
            "status": self.status().as_u16(),
            "reason": label,
            "node": node,
        });
        if let Some(text) = detail.text {
            document["detail"] = json!(text);
        }
        if let Some(partition) = detail.partition {
            document["partition"] = json!(partition.0);
        }
        let mut response = Response::new(Body::from(document.to_string()));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        match self {
            Self::Method => drop(headers.insert(header::ALLOW, HeaderValue::from_static(ALLOW))),
            Self::StoreBusy | Self::PartitionBusy => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from(1));
            }
            Self::ConditionFailed => {
                headers.extend(detail.current.and_then(|etag| Some((header::ETAG, etag_value(&etag)?))));
            }
            _ => {}
        }
        response
    }
}

/// What is known of one occurrence.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Detail<'a> {
    /// For people. Never a key's value: it may be a secret.
    pub(crate) text: Option<&'a str>,
    pub(crate) partition: Option<Partition>,
    /// The stored value's tag, after a condition that does not hold.
    pub(crate) current: Option<Etag>,
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self::Shared(reason)
    }
}

impl From<&StoreError> for Refusal {
    fn from(error: &StoreError) -> Self {
        match error {
            StoreError::Unmet { .. } => Self::ConditionFailed,
            StoreError::TooLarge { .. } => Self::Shared(Reason::BodyTooLarge),
            StoreError::Busy => Self::StoreBusy,
            StoreError::DiskFull => Self::DiskFull,
            StoreError::Corrupt(_) => Self::Corrupt,
            StoreError::Failed(_) => Self::StoreFailed,
            StoreError::Closed => Self::Shared(Reason::Draining),
        }
    }
}

/// An entity tag is visible ASCII, so this is always `Some`.
pub(crate) fn etag_value(etag: &Etag) -> Option<HeaderValue> {
    HeaderValue::try_from(etag.to_string()).ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn every_refusal_is_a_problem_document_with_a_reason_of_its_own() {
        let mut labels = BTreeSet::new();
        for refusal in Refusal::OWN {
            let detail = Detail { text: Some("why"), partition: Some(Partition(7)), current: None };
            let response = refusal.response("n1", &detail);
            assert_eq!(response.status(), refusal.status());
            assert!(response.status().is_client_error() || response.status().is_server_error());
            assert_eq!(response.headers()["content-type"], "application/problem+json");
            let body = response.into_body().collect().await.unwrap().to_bytes();
            let document: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(document["reason"], refusal.label());
            assert_eq!((&document["partition"], &document["detail"]), (&json!(7), &json!("why")));
            assert!(labels.insert(refusal.label()));
        }
        let shared: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.label()).collect();
        assert!(labels.is_disjoint(&shared), "a label has one meaning");
    }
}
