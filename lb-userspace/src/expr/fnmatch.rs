//! `-strmatch`, `-strcmatch` and `-fnmatch`: shell patterns over bytes.

/// How a pattern matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Letters match in either case.
    ignores_case: bool,
    /// `/` is matched by `/` alone.
    paths: bool,
}

impl Options {
    /// Of sections: `/` is matched by `/` alone where `paths` says so.
    pub(crate) const fn of_paths(paths: bool) -> Self {
        Self {
            ignores_case: false,
            paths,
        }
    }

    /// Of the operator of this name, in any case.
    pub(super) fn named(name: &str) -> Option<Self> {
        let mut options = Self::default();
        match name.to_ascii_lowercase().as_str() {
            "strmatch" => {}
            "strcmatch" => options.ignores_case = true,
            "fnmatch" => options.paths = true,
            _ => return None,
        }
        Some(options)
    }

    fn fold(self, byte: u8) -> u8 {
        if self.ignores_case {
            byte.to_ascii_lowercase()
        } else {
            byte
        }
    }
}

/// Whether `pattern` matches all of `text`. Work is bounded by the product of the lengths.
pub(crate) fn matches(pattern: &[u8], text: &[u8], options: Options) -> bool {
    if !options.paths {
        return segment(pattern, text, options);
    }
    let mut patterns = pattern.split(|byte| *byte == b'/');
    let mut texts = text.split(|byte| *byte == b'/');
    loop {
        match (patterns.next(), texts.next()) {
            (None, None) => return true,
            (Some(pattern), Some(text)) if segment(pattern, text, options) => {}
            _ => return false,
        }
    }
}

fn segment(pattern: &[u8], text: &[u8], options: Options) -> bool {
    let (mut p, mut t) = (0, 0);
    // The last `*` and the byte it is tried at: going back to it alone is enough.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        let byte = options.fold(text[t]);
        let step = match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
                continue;
            }
            Some(b'?') => Some(p + 1),
            Some(b'[') => class(pattern, p, byte, options),
            Some(b'\\') if p + 1 < pattern.len() => {
                (options.fold(pattern[p + 1]) == byte).then_some(p + 2)
            }
            Some(c) => (options.fold(*c) == byte).then_some(p + 1),
            None => None,
        };
        match (step, star) {
            (Some(next), _) => {
                p = next;
                t += 1;
            }
            (None, Some((at, from))) => {
                p = at + 1;
                t = from + 1;
                star = Some((at, t));
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// `[...]` at `start`: the index behind it if `byte` is in it. Without an end the `[` is itself.
fn class(pattern: &[u8], start: usize, byte: u8, options: Options) -> Option<usize> {
    let mut at = start + 1;
    let negated = matches!(pattern.get(at), Some(b'!' | b'^'));
    at += usize::from(negated);
    let first = at;
    let mut hit = false;
    loop {
        let Some(low) = pattern.get(at) else {
            return (byte == b'[').then_some(start + 1);
        };
        let low = match low {
            b']' if at > first => break,
            b'\\' if at + 1 < pattern.len() => {
                at += 1;
                options.fold(pattern[at])
            }
            low => options.fold(*low),
        };
        at += 1;
        match (pattern.get(at), pattern.get(at + 1)) {
            (Some(b'-'), Some(high)) if *high != b']' => {
                hit |= (low..=options.fold(*high)).contains(&byte);
                at += 2;
            }
            _ => hit |= low == byte,
        }
    }
    (hit != negated).then_some(at + 1)
}
