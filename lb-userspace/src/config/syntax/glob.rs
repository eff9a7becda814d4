//! Shell patterns as `Include` and `ServerAlias` use them.

/// Whether `text` has characters that make it a pattern.
pub(crate) fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

/// Whether `pattern` matches all of `name`. A leading dot must be matched by a dot, as httpd asks
/// of file names.
pub(crate) fn matches_name(pattern: &str, name: &str) -> bool {
    if name.starts_with('.') && !pattern.starts_with('.') {
        return false;
    }
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    let (mut p, mut n) = (0, 0);
    // The last `*` seen and the character it is tried at: going back to it alone is enough, so the
    // work is at most the product of the lengths.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        let step = match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
                continue;
            }
            Some('?') => Some(p + 1),
            Some('[') => class(&pattern, p, name[n]),
            Some('\\') if p + 1 < pattern.len() => (pattern[p + 1] == name[n]).then_some(p + 2),
            Some(c) => (*c == name[n]).then_some(p + 1),
            None => None,
        };
        if let Some(next) = step {
            p = next;
            n += 1;
        } else if let Some((at, from)) = star {
            p = at + 1;
            n = from + 1;
            star = Some((at, n));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// Matches `[...]` at `start`: the index after it when `c` is in the class. Without a closing
/// bracket the `[` is itself.
fn class(pattern: &[char], start: usize, c: char) -> Option<usize> {
    let mut at = start + 1;
    let negated = matches!(pattern.get(at), Some('!' | '^'));
    if negated {
        at += 1;
    }
    let first = at;
    let mut hit = false;
    loop {
        match pattern.get(at) {
            None => return (c == '[').then_some(start + 1),
            Some(']') if at > first => break,
            Some(&low) => {
                let range = pattern.get(at + 1) == Some(&'-');
                match pattern.get(at + 2) {
                    Some(&high) if range && high != ']' => {
                        hit |= (low..=high).contains(&c);
                        at += 3;
                    }
                    _ => {
                        hit |= low == c;
                        at += 1;
                    }
                }
            }
        }
    }
    (hit != negated).then_some(at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, name, matches) in [
            ("*.conf", "a.conf", true),
            ("*.conf", ".conf", false),
            (".*", ".conf", true),
            ("*.conf", "a.conf~", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("[0-4]*-x", "000-x", true),
            ("[!a]b", "ab", false),
            ("[!a]b", "bb", true),
            ("[]]", "]", true),
            ("[a", "[a", true),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b*", "xxbxxa", false),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(matches_name(pattern, name), matches, "{pattern} {name}");
        }
    }

    #[test]
    fn many_stars_take_little_time() {
        let pattern = "*a".repeat(200) + "b";
        assert!(!matches_name(&pattern, &"a".repeat(2000)));
    }
}
