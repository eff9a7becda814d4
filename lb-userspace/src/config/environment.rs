//! What `${NAME}` may stand for beside `Define`: the process's environment, and the `envvars` file
//! that Debian's apache2ctl sources before it starts httpd.
//!
//! `envvars` is a shell script. Only its `export NAME=VALUE` lines are read, with `$NAME` and
//! `${NAME}` replaced; nothing is executed and lines with other shell syntax are passed over.

use std::collections::BTreeMap;

/// Variables by name.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    defaults: BTreeMap<String, String>,
}

impl Environment {
    /// The variables of this process; those that are not UTF-8 are left out.
    pub fn of_process() -> Self {
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Self {
            variables,
            defaults: BTreeMap::new(),
        }
    }

    /// These variables.
    pub fn of<const N: usize>(variables: [(&str, &str); N]) -> Self {
        Self {
            variables: variables.map(|(n, v)| (n.to_owned(), v.to_owned())).into(),
            defaults: BTreeMap::new(),
        }
    }

    /// Value of a variable: its own, else the default that an `envvars` file gave.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.variables
            .get(name)
            .or_else(|| self.defaults.get(name))
            .map(String::as_str)
    }

    /// Whether the value comes from an `envvars` file.
    pub fn is_default(&self, name: &str) -> bool {
        !self.variables.contains_key(name) && self.defaults.contains_key(name)
    }

    /// Adds what an `envvars` file exports, as defaults for what is not in the environment.
    pub fn read_envvars(&mut self, script: &str) {
        for line in script.lines().take(MAX_ENVVARS_LINES) {
            let Some((name, value)) = line
                .trim()
                .strip_prefix("export ")
                .and_then(|assignment| assignment.trim_start().split_once('='))
            else {
                continue;
            };
            if !is_name(name) {
                continue;
            }
            if let Some(value) = self.expand(value)
                && value.len() <= MAX_VALUE_BYTES
            {
                self.defaults.insert(name.to_owned(), value);
            }
        }
    }

    /// Value of a shell word; `None` when it needs a real shell.
    fn expand(&self, word: &str) -> Option<String> {
        let (text, literal) = match word.chars().next() {
            Some('\'') => (word.strip_prefix('\'')?.split_once('\'')?.0, true),
            Some('"') => (word.strip_prefix('"')?.split_once('"')?.0, false),
            _ => (word.split([' ', '\t', ';', '#']).next()?, false),
        };
        if literal {
            return Some(text.to_owned());
        }
        if text.contains(['`', '\\', '(', '\'', '"']) {
            return None;
        }
        let mut out = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            out.push_str(before);
            let (name, tail) = if let Some(braced) = after.strip_prefix('{') {
                braced.split_once('}')?
            } else {
                let end = after
                    .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                    .unwrap_or(after.len());
                after.split_at(end)
            };
            if !is_name(name) {
                return None;
            }
            // As in a shell, what is not set is empty ($SUFFIX of Debian's file).
            out.push_str(self.value(name).unwrap_or_default());
            rest = tail;
        }
        out.push_str(rest);
        Some(out)
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Lines of an `envvars` file that are looked at.
const MAX_ENVVARS_LINES: usize = 1000;
/// Longest value taken, bytes: values may be made of values.
const MAX_VALUE_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exports_are_read_and_refer_to_each_other() {
        let mut environment = Environment::of([("HOME_DIR", "/h")]);
        environment.read_envvars(
            "unset HOME\nif [ x ] ; then\n\tSUFFIX=\"-a\"\nfi\nexport A=www-data\n\
             export B=/var/run/apache2$SUFFIX/${A}.pid # why\nexport C='$A'\nexport D=\"$HOME_DIR/x y\"\n\
             export E=`id`\nexport F=$(id)\nexport G=${A:-x}\nexport LANG\n",
        );
        assert_eq!(environment.value("A"), Some("www-data"));
        assert_eq!(
            environment.value("B"),
            Some("/var/run/apache2/www-data.pid")
        );
        assert_eq!(environment.value("C"), Some("$A"));
        assert_eq!(environment.value("D"), Some("/h/x y"));
        for needs_a_shell in ["E", "F", "G", "LANG", "SUFFIX"] {
            assert_eq!(environment.value(needs_a_shell), None, "{needs_a_shell}");
        }
    }

    #[test]
    fn the_environment_wins_over_envvars() {
        let mut environment = Environment::of([("A", "mine")]);
        environment.read_envvars("export A=theirs\nexport B=x\n");
        assert_eq!(environment.value("A"), Some("mine"));
        assert!(!environment.is_default("A"));
        assert!(environment.is_default("B"));
    }
}
