//! Errors with their causes, for messages.

use std::error::Error;

/// The error's text and the texts of its causes, joined by ": ". A cause is left out if the text
/// before already ends with it.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        let more = e.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = e.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Link {
        text: &'static str,
        source: Option<Box<Link>>,
    }

    #[test]
    fn causes_follow_once() {
        let last = Link {
            text: "no entry",
            source: None,
        };
        let same = Link {
            text: "cannot open: no entry",
            source: Some(Box::new(last)),
        };
        let first = Link {
            text: "it failed",
            source: Some(Box::new(same)),
        };
        assert_eq!(with_causes(&first), "it failed: cannot open: no entry");
    }
}
