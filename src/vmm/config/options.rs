//! The only parser of options: `VALUE[,key=value]...`.

/// A flag that takes options.
#[derive(Debug, PartialEq, Eq)]
pub struct Flag {
    /// The flag as the user types it: `--memory`.
    pub name: &'static str,
    /// Its options.
    pub options: &'static [Known],
    /// Whether the value of an option may be a list, `pin=0,2,4-7`: a part that begins with a digit
    /// belongs to the option before.
    pub lists: bool,
}

/// An option that a flag has.
#[derive(Debug, PartialEq, Eq)]
pub struct Known {
    /// Its name.
    pub name: &'static str,
    /// The allowed values, as the end of a sentence that begins "give ...".
    pub wanted: &'static str,
    /// A valid value.
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
        /// The flag with its value.
        of: String,
        /// The options of the flag.
        known: &'static [Known],
    },
    /// An option that is given twice.
    #[error("`{option}` is given twice for {of}")]
    Twice {
        /// Its name.
        option: &'static str,
        /// The flag with its value.
        of: String,
    },
    /// A value that the option does not take.
    #[error("`{value}` is not a value for `{}` of {of}", option.name)]
    Value {
        /// The option.
        option: &'static Known,
        /// What the user wrote.
        value: String,
        /// The flag with its value.
        of: String,
    },
}

impl OptionError {
    /// The remedy to type.
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

/// The given options of a flag.
#[derive(Debug)]
pub struct Options<'a> {
    of: String,
    given: Vec<(&'static Known, &'a str)>,
}

impl<'a> Options<'a> {
    /// Splits `text`, the argument of `flag`, into its value and its options.
    ///
    /// # Errors
    /// An option that the flag does not have, or that is given twice.
    pub fn split(flag: &'static Flag, text: &'a str) -> Result<(&'a str, Self), OptionError> {
        let known = flag.options;
        let (value, mut rest) = text.split_once(',').unwrap_or((text, ""));
        let of = format!("{} {value}", flag.name);
        let mut options = Self {
            of,
            given: Vec::new(),
        };
        // A comma at the end counts as an option without a name.
        let mut more = value.len() < text.len();
        while more {
            let end = end_of_option(rest, flag.lists);
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

    /// An option's value, read by `read`; `None` if the option was not given.
    ///
    /// # Errors
    /// `read` does not take the value.
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

    /// Whether an option is `on`; `None` if it was not given.
    ///
    /// # Errors
    /// A value other than `on` and `off`.
    pub fn switch(&self, name: &str) -> Result<Option<bool>, OptionError> {
        self.get(name, |value| match value {
            "on" => Some(true),
            "off" => Some(false),
            _ => None,
        })
    }
}

/// The end of the first option of `text`: the first comma, or with `lists` the first comma that no
/// digit follows.
fn end_of_option(text: &str, lists: bool) -> usize {
    let mut commas = text.match_indices(',').map(|(at, _)| at);
    let goes_on = |at: usize| {
        let next = text.as_bytes().get(at + 1);
        lists && next.is_some_and(u8::is_ascii_digit)
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

    const FLAG: Flag = Flag {
        name: "--flag",
        options: KNOWN,
        lists: true,
    };

    fn split(text: &str) -> Result<(&str, Options<'_>), OptionError> {
        static LISTS: Flag = FLAG;
        Options::split(&LISTS, text)
    }

    #[test]
    fn only_a_flag_with_lists_has_values_with_commas() {
        static NO_LISTS: Flag = Flag {
            lists: false,
            ..FLAG
        };
        let e = Options::split(&NO_LISTS, "v,list=1,2").unwrap_err();
        assert_eq!(e.to_string(), "`2` is not an option of --flag v");
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
            "`maybe` is not a value for `switch` of --flag v"
        );
        assert_eq!(e.hint(), "give on or off, for example switch=on");
    }
}
