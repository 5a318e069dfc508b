//! The report: one HTML page that needs nothing else.

use crate::summary::Summary;

/// The page.
#[must_use]
pub fn html(summary: &Summary) -> String {
    summary.to_json()
}
