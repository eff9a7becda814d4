//! `status=` flags of a member, for BalancerMember and `sluice member set`.

use lb_common::member::MemberState;

/// Applies flags such as `+H-D` to `base`, [`MemberState`] bits: letters after a `-` are cleared,
/// those after a `+` or at the beginning set, in any case. A sign holds until the next one.
///
/// The error names the letter. O, G, U and F are httpd's own business and refused.
pub fn parse_status_flags(flags: &str, base: u64) -> Result<u64, String> {
    let mut bits = base;
    let mut set = true;
    if flags.is_empty() {
        return Err(format!("no status flag; {EXPECTED}"));
    }
    for c in flags.chars() {
        match c {
            '+' => set = true,
            '-' => set = false,
            _ => {
                let upper = c.to_ascii_uppercase();
                let bit = MemberState::LETTERS
                    .iter()
                    .find(|(letter, _)| *letter == upper)
                    .map(|(_, bit)| *bit);
                let Some(bit) = bit else {
                    let shown: String = c.escape_default().collect();
                    return Err(format!("unknown status flag '{shown}'; {EXPECTED}"));
                };
                if set {
                    bits |= bit;
                } else {
                    bits &= !bit;
                }
            }
        }
    }
    Ok(bits)
}

const EXPECTED: &str = "expected D, S, I, R, H, E, N or C, each with + or - before it";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_set_and_clear_bits() {
        use MemberState as S;
        for (flags, base, bits) in [
            ("+H-D", S::DISABLED, S::STANDBY),
            ("d", 0, S::DISABLED),
            ("+D+S", 0, S::DISABLED | S::STOPPED),
            ("-EN", S::ERROR | S::DRAIN, 0),
            ("-EN+S", S::ERROR, S::STOPPED),
        ] {
            assert_eq!(parse_status_flags(flags, base), Ok(bits), "{flags}");
        }
        assert!(parse_status_flags("Q", 0).is_err_and(|e| e.contains("'Q'")));
        assert!(parse_status_flags("", 0).is_err());
    }
}
