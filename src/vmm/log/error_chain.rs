//! Errors as sentences.

use std::error::Error;

/// An error with its causes, as one sentence. A cause that only repeats what was said is left out.
pub fn sentence(error: &dyn Error) -> String {
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
        assert_eq!(sentence(&first), "it failed: cannot open: no entry");
    }
}
