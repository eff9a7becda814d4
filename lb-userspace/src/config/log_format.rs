//! Checks `LogFormat` strings (apache.md 3.24). What a tag prints is telemetry's business.

/// Why a format is refused, in httpd's words where it has some.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FormatError {
    /// No such tag.
    #[error("Unrecognized LogFormat directive %{0}")]
    Unknown(String),
    /// The text ends within a tag.
    #[error("Ran off end of LogFormat parsing args to some directive")]
    Truncated,
    /// Tags that this version does not print.
    #[error("LogFormat directive %{0} is not supported by this version of sluice")]
    NotYet(String),
    /// The tag needs an argument in braces.
    #[error("LogFormat directive %{0} needs an argument: %{{...}}{0}")]
    NoArgument(char),
}

/// Checks a format string.
pub(crate) fn check(format: &str) -> Result<(), FormatError> {
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            continue;
        }
        let mut argument = None;
        loop {
            match chars.next().ok_or(FormatError::Truncated)? {
                // Conditions and the choice between the first and the last of internal redirects.
                '!' | '<' | '>' | ',' | '0'..='9' => {}
                '{' => {
                    let mut text = String::new();
                    loop {
                        match chars.next().ok_or(FormatError::Truncated)? {
                            '}' => break,
                            c => text.push(c),
                        }
                    }
                    argument = Some(text);
                }
                '^' => {
                    let tag: String = chars.by_ref().take(2).collect();
                    if tag == "ti" || tag == "to" {
                        return Err(FormatError::NotYet(format!("^{tag}")));
                    }
                    return Err(FormatError::Unknown(format!("^{tag}")));
                }
                tag => {
                    check_tag(tag, argument.as_deref())?;
                    break;
                }
            }
        }
    }
    Ok(())
}

fn check_tag(tag: char, argument: Option<&str>) -> Result<(), FormatError> {
    match tag {
        _ if PLAIN.contains(tag) => Ok(()),
        _ if WITH_ARGUMENT.contains(tag) => match argument {
            Some(text) if !text.is_empty() => Ok(()),
            _ => Err(FormatError::NoArgument(tag)),
        },
        _ if NOT_YET.contains(tag) => Err(FormatError::NotYet(tag.to_string())),
        _ => Err(FormatError::Unknown(tag.to_string())),
    }
}

/// Tags that may have an argument.
const PLAIN: &str = "%haAlutrmUqHsbBDTfvVpPXkLRIOS";
/// Tags that must have one: header fields, environment, cookies, mod_ssl's variables.
const WITH_ARGUMENT: &str = "ioeCx";
/// Notes of modules.
const NOT_YET: &str = "n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_checked() {
        for format in [
            "%h %l %u %t \"%r\" %>s %b",
            "%v:%p %h %l %u %t \"%r\" %>s %O \"%{Referer}i\" \"%{User-Agent}i\"",
            "%400,501{User-agent}i %!200,304{Referer}i %{%Y}t %{ms}T 100%%",
            "%{BALANCER_WORKER_ROUTE}e %{c}a %{JSESSIONID}C %<s",
            "plain",
            "",
        ] {
            assert_eq!(check(format), Ok(()), "{format}");
        }
        for (format, why) in [
            ("%Q", "Unrecognized LogFormat directive %Q"),
            (
                "%{a",
                "Ran off end of LogFormat parsing args to some directive",
            ),
            (
                "100%",
                "Ran off end of LogFormat parsing args to some directive",
            ),
            ("%i", "LogFormat directive %i needs an argument: %{...}i"),
            (
                "%{x}^ti",
                "LogFormat directive %^ti is not supported by this version of sluice",
            ),
            ("%{x}^xx", "Unrecognized LogFormat directive %^xx"),
        ] {
            assert_eq!(
                check(format).map_err(|e| e.to_string()),
                Err(why.to_owned()),
                "{format}"
            );
        }
    }
}
