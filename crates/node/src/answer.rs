//! What requests on a node's data listener are checked for and answered with, whatever the ownership.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, Version, header, request};
use http_body::Body as _;
use http_body_util::BodyExt;
use ringway_proxy::edge::BodyIdle;
use ringway_proxy::{Body, Reason};

use crate::precondition::{Etag, Precondition, Unmet};
use crate::problem::{Refusal, etag_value};
use crate::store::{ContentType, StoreError, ValueMeta};

/// Longest value that is answered as one piece instead of a stream.
const WHOLE_BYTES_MAX: u64 = 64 * 1024;

/// Why there is no ordinary answer, with what is known about it.
pub(crate) struct Refused {
    pub(crate) refusal: Refusal,
    pub(crate) text: Option<String>,
    pub(crate) current: Option<Etag>,
}

/// The condition of a request.
pub(crate) fn condition(headers: &HeaderMap) -> Result<Precondition, Refused> {
    Precondition::from_headers(headers).map_err(|error| Refused {
        refusal: Refusal::ConditionMalformed,
        text: Some(error.to_string()),
        current: None,
    })
}

/// Evaluates a read's condition: `Some` is the 304 (RFC 9110 §15.4.5).
pub(crate) fn check_read(
    condition: &Precondition,
    meta: &ValueMeta,
) -> Result<Option<Response<Body>>, Refused> {
    match condition.check(Some(&meta.etag)) {
        Ok(()) => Ok(None),
        Err(Unmet::IfMatch) => {
            Err(Refused { refusal: Refusal::ConditionFailed, text: None, current: Some(meta.etag) })
        }
        Err(Unmet::IfNoneMatch) => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response.headers_mut().extend(etag_value(&meta.etag).map(|etag| (header::ETAG, etag)));
            Ok(Some(response))
        }
    }
}

/// Checks a PUT's head before anything of its body is read.
pub(crate) fn check_put(parts: &request::Parts, body: &Body, bytes_max: u64) -> Result<ContentType, Refused> {
    let headers = &parts.headers;
    // HTTP/1.1 without either says that there is no body: more likely a forgotten one than an empty value.
    let announced =
        headers.contains_key(header::CONTENT_LENGTH) || headers.contains_key(header::TRANSFER_ENCODING);
    if !announced && parts.version < Version::HTTP_2 && body.is_end_stream() {
        return Err(Refusal::LengthRequired.into());
    }
    if headers.contains_key(header::CONTENT_RANGE) {
        return Err(Refusal::PartialPut.into());
    }
    let coded = headers.get_all(header::CONTENT_ENCODING).iter();
    if coded.into_iter().any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(Refusal::ContentCoding.into());
    }
    if body.size_hint().lower() > bytes_max {
        return Err(StoreError::TooLarge { bytes_max }.into());
    }
    let content_type = headers.get(header::CONTENT_TYPE).map_or(b"".as_slice(), HeaderValue::as_bytes);
    ContentType::new(content_type).ok_or_else(|| Refusal::ContentType.into())
}

/// What a request's body broke off for.
pub(crate) fn body_error(error: &(dyn std::error::Error + 'static)) -> Refused {
    let reason = if error.is::<BodyIdle>() { Reason::RequestTimeout } else { Reason::RequestBody };
    Refusal::from(reason).into()
}

/// A value of one chunk becomes a body of one piece: no box, and its length is plain.
pub(crate) async fn whole_or_stream<V>(mut value: V) -> Result<Body, Refused>
where
    V: http_body::Body<Data = Bytes, Error = StoreError> + Unpin + 'static,
{
    if value.size_hint().exact().is_none_or(|bytes| bytes > WHOLE_BYTES_MAX) {
        return Ok(Body::boxed(value));
    }
    let mut whole = Vec::new();
    let mut first = None;
    while let Some(frame) = value.frame().await {
        let Ok(bytes) = frame?.into_data() else { continue };
        match first.take() {
            None if whole.is_empty() => first = Some(bytes),
            earlier => {
                whole.extend_from_slice(&earlier.unwrap_or_default());
                whole.extend_from_slice(&bytes);
            }
        }
    }
    Ok(first.unwrap_or_else(|| whole.into()).into())
}

/// The headers of a 200.
pub(crate) fn describe(mut response: Response<Body>, meta: &ValueMeta) -> Response<Body> {
    let content_type = match meta.content_type.is_empty() {
        true => Some(HeaderValue::from_static("application/octet-stream")),
        false => HeaderValue::from_maybe_shared(meta.content_type.to_bytes()).ok(),
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(meta.bytes));
    headers.extend(content_type.map(|value| (header::CONTENT_TYPE, value)));
    headers.extend(etag_value(&meta.etag).map(|value| (header::ETAG, value)));
    response
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, text: None, current: None }
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        let refusal = Refusal::from(&error);
        match error {
            StoreError::Unmet { current, .. } => Self { refusal, text: None, current },
            StoreError::TooLarge { .. } | StoreError::Corrupt(_) | StoreError::Failed(_) => {
                Self { refusal, text: Some(error.to_string()), current: None }
            }
            StoreError::Busy | StoreError::DiskFull | StoreError::Closed => refusal.into(),
        }
    }
}
