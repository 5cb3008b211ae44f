//! Versions of resources: `ETag` on what is read, `If-Match` on what is written, `If-None-Match` to read only news.
//!
//! The tag is the store's revision of the row's last write. A write with `If-Match` compares it in the transaction that
//! writes, so that nobody's change is lost.

use super::cache::Tag;
use super::error::ApiError;
use super::exchange::Answer;
use super::request::Request;
use crate::store::Revision;
use axum::http::{Method, StatusCode};

/// What a request says of versions: the headers' tags.
#[derive(Clone, Debug, Default)]
pub struct Preconditions {
    pub matches: Option<String>,
    pub none_match: Option<String>,
}

/// Whether a header's list has that tag. That an answer was packed on its way (`W/`) makes no difference.
fn names(list: &str, tag: &Tag) -> bool {
    list.split(',').map(|one| one.trim()).any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == tag.text)
}

impl Request {
    /// The version that a write must find; `None` where any will do.
    pub fn expected(&self, tag: &Tag) -> Result<Option<Revision>, ApiError> {
        match &self.preconditions.matches {
            None => Ok(None),
            Some(list) if list.trim() == "*" => Ok(None),
            Some(list) if names(list, tag) => Ok(Some(tag.revision)),
            Some(_) => Err(ApiError::changed()),
        }
    }

    /// `answer` with its version; nothing but that where the client has it already.
    pub fn tagged(&self, mut answer: Answer, tag: &Tag) -> Answer {
        // What is included has versions of its own.
        if self.parameter("include").is_some() {
            return answer;
        }
        answer.etag = Some(tag.text.clone());
        let reads = matches!(self.method, Method::GET | Method::HEAD);
        if reads && self.preconditions.none_match.as_deref().is_some_and(|list| names(list, tag)) {
            answer.status = StatusCode::NOT_MODIFIED;
            answer.body = Vec::new();
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_tags() {
        let tag = Tag::of(Revision(7));
        for (list, expected) in
            [("\"7\"", true), ("\"6\", \"7\"", true), ("W/\"7\"", true), ("*", true), ("7", false), ("\"77\"", false)]
        {
            assert_eq!(names(list, &tag), expected, "{list}");
        }
    }
}
