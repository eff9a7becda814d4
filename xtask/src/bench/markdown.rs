//! Where a run's tables go besides the terminal: into a page, so that no figure is typed by hand.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};

/// Writes a run's text to a file. One that has a place for it (`<!-- bench NAME: begin -->` and
/// `<!-- bench NAME: end -->`, each a line) keeps all around it; any other is replaced.
pub(super) fn write(path: &Path, name: &str, text: &str) -> Result<()> {
    let page = match fs::read_to_string(path) {
        Ok(page) => insert(&page, name, text).with_context(|| path.display().to_string())?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => text.to_owned(),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    fs::write(path, page).with_context(|| format!("writing {}", path.display()))?;
    eprintln!("    written: {}", path.display());
    Ok(())
}

fn insert(page: &str, name: &str, text: &str) -> Result<String> {
    let [begin, end] = ["begin", "end"].map(|what| format!("<!-- bench {name}: {what} -->\n"));
    match (page.split_once(&begin), page.split_once(&end)) {
        (Some((before, _)), Some((_, after))) if before.len() + after.len() < page.len() => {
            Ok(format!("{before}{begin}\n{text}\n{end}{after}"))
        }
        (None, None) => Ok(text.to_owned()),
        _ => bail!(
            "there is no pair of `{}` and `{}`",
            begin.trim(),
            end.trim()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::insert;

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let page = "head\n<!-- bench l7: begin -->\nold\n<!-- bench l7: end -->\ntail\n";
        let new = insert(page, "l7", "new\n").expect("both marks");
        let wanted = "head\n<!-- bench l7: begin -->\n\nnew\n\n<!-- bench l7: end -->\ntail\n";
        assert_eq!(new, wanted);
        assert_eq!(insert(&new, "l7", "new\n").expect("both marks"), wanted);
    }

    #[test]
    fn half_a_pair_of_marks_loses_nothing() {
        assert!(insert("head\n<!-- bench l7: begin -->\n", "l7", "new").is_err());
        assert!(
            insert(
                "<!-- bench l7: end -->\nx\n<!-- bench l7: begin -->\n",
                "l7",
                ""
            )
            .is_err()
        );
    }
}
