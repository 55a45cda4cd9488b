//! `VALUE[,key=value]...`: how a flag takes options. Their names are the command line's business.

/// An option that a flag has.
#[derive(Debug, PartialEq, Eq)]
pub struct Known {
    /// Its name.
    pub name: &'static str,
    /// What its value may be, as in "give ...".
    pub wanted: &'static str,
    /// A value that would do.
    pub example: &'static str,
}

/// An option that cannot be used. `of` is the flag with its value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// No such option.
    #[error("`{option}` is not an option of {of}")]
    Unknown {
        /// What the user wrote.
        option: String,
        /// What it was for.
        of: String,
        /// Those that there are.
        known: &'static [Known],
    },
    /// An option that is there twice.
    #[error("`{option}` is given twice for {of}")]
    Twice {
        /// Its name.
        option: &'static str,
        /// What it was for.
        of: String,
    },
    /// A value that makes no sense.
    #[error("`{value}` is no value for `{}` of {of}", option.name)]
    Value {
        /// The option.
        option: &'static Known,
        /// What the user wrote.
        value: String,
        /// What it was for.
        of: String,
    },
}

impl OptionError {
    /// What to type.
    pub fn hint(&self) -> String {
        match self {
            Self::Unknown { of, known, .. } => {
                let names: Vec<_> = known.iter().map(|k| format!("{}=", k.name)).collect();
                let names = match names.split_last() {
                    Some((last, rest)) if !rest.is_empty() => {
                        format!("{} and {last}", rest.join(", "))
                    }
                    _ => names.concat(),
                };
                let example = known.first().map(|k| format!("{}={}", k.name, k.example));
                let example = example.unwrap_or_default();
                format!("there are {names}, for example {of},{example}")
            }
            Self::Twice { option, .. } => format!("give `{option}` once"),
            Self::Value { option, .. } => {
                format!(
                    "give {}, for example {}={}",
                    option.wanted, option.name, option.example
                )
            }
        }
    }
}

/// The options that were given to a flag.
#[derive(Debug)]
pub struct Options<'a> {
    of: String,
    given: Vec<(&'static Known, &'a str)>,
}

impl<'a> Options<'a> {
    /// Splits `text`, the argument of `flag`, into its value and its options. A part that begins with
    /// a digit goes on with the option before it, so that a value may be a list: `pin=0,2,4-7`.
    ///
    /// # Errors
    /// An option that is not `known`, or that is given twice.
    pub fn split(
        flag: &str,
        text: &'a str,
        known: &'static [Known],
    ) -> Result<(&'a str, Self), OptionError> {
        let (value, mut rest) = text.split_once(',').unwrap_or((text, ""));
        let of = format!("{flag} {value}");
        let mut options = Self {
            of,
            given: Vec::new(),
        };
        // A comma with nothing after it is an option without a name.
        let mut more = value.len() < text.len();
        while more {
            let end = end_of_option(rest);
            let (part, after) = rest.split_at(end);
            more = !after.is_empty();
            rest = after.get(1..).unwrap_or_default();
            let named = part
                .split_once('=')
                .and_then(|(name, value)| Some((known.iter().find(|k| k.name == name)?, value)));
            let Some((option, value)) = named else {
                return Err(OptionError::Unknown {
                    option: part.into(),
                    of: options.of,
                    known,
                });
            };
            if options.given.iter().any(|(k, _)| k.name == option.name) {
                return Err(OptionError::Twice {
                    option: option.name,
                    of: options.of,
                });
            }
            options.given.push((option, value));
        }
        Ok((value, options))
    }

    /// An option's value if it was given.
    ///
    /// # Errors
    /// `read` makes nothing of it.
    pub fn get<T>(
        &self,
        name: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, OptionError> {
        let Some((option, value)) = self.given.iter().find(|(k, _)| k.name == name) else {
            return Ok(None);
        };
        match read(value) {
            Some(read) => Ok(Some(read)),
            None => Err(OptionError::Value {
                option,
                value: (*value).into(),
                of: self.of.clone(),
            }),
        }
    }

    /// A switch's value if it was given.
    ///
    /// # Errors
    /// Neither `on` nor `off`.
    pub fn switch(&self, name: &str) -> Result<Option<bool>, OptionError> {
        self.get(name, |value| match value {
            "on" => Some(true),
            "off" => Some(false),
            _ => None,
        })
    }
}

/// Where the first option of `text` ends: at a comma that no digit follows.
fn end_of_option(text: &str) -> usize {
    let mut commas = text.match_indices(',').map(|(at, _)| at);
    let goes_on = |at: usize| {
        let next = text.as_bytes().get(at + 1);
        next.is_some_and(u8::is_ascii_digit)
    };
    commas.find(|at| !goes_on(*at)).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[Known] = &[
        Known {
            name: "list",
            wanted: "numbers",
            example: "1,2",
        },
        Known {
            name: "switch",
            wanted: "on or off",
            example: "on",
        },
    ];

    fn split(text: &str) -> Result<(&str, Options<'_>), OptionError> {
        Options::split("--flag", text, KNOWN)
    }

    #[test]
    fn values_may_be_lists() {
        for text in ["v,list=1,2-3,4,switch=on", "v,switch=on,list=1,2-3,4"] {
            let (value, options) = split(text).unwrap();
            assert_eq!(value, "v");
            let list = options.get("list", |l| Some(l.to_string()));
            assert_eq!(list, Ok(Some("1,2-3,4".into())), "{text}");
            assert_eq!(options.switch("switch"), Ok(Some(true)));
        }
        let (value, options) = split("v").unwrap();
        assert_eq!((value, options.switch("switch")), ("v", Ok(None)));
        assert_eq!(split("").unwrap().0, "");
    }

    #[test]
    fn mistakes_are_named() {
        for (text, option) in [
            ("v,", ""),
            ("v,frob=1", "frob=1"),
            ("v,switch", "switch"),
            ("v,switch=on,", ""),
            ("v,,switch=on", ""),
            ("v,1,switch=on", "1"),
        ] {
            let e = split(text).unwrap_err();
            assert_eq!(
                e.to_string(),
                format!("`{option}` is not an option of --flag v"),
                "{text}"
            );
            let hint = "there are list= and switch=, for example --flag v,list=1,2";
            assert_eq!(e.hint(), hint);
        }
        let e = split("v,switch=on,switch=off").unwrap_err();
        assert_eq!(e.to_string(), "`switch` is given twice for --flag v");
        assert_eq!(e.hint(), "give `switch` once");
        let (_, options) = split("v,switch=maybe").unwrap();
        let e = options.switch("switch").unwrap_err();
        assert_eq!(
            e.to_string(),
            "`maybe` is no value for `switch` of --flag v"
        );
        assert_eq!(e.hint(), "give on or off, for example switch=on");
    }
}
