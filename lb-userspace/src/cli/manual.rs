//! Manual pages and shell completions, made from the definition of the command line: what packages
//! install, and no part of the everyday commands.

use std::io;

use clap::{Command, CommandFactory as _};

use super::{Failure, Outcome, USAGE, args::Cli, output};

/// Prints the manual page of sluice or of one of its commands.
pub(crate) fn page(words: &[String]) -> Outcome {
    output::text(&render(words)?)
}

fn render(words: &[String]) -> Result<String, Failure> {
    let mut root = Cli::command().mut_args(|arg| arg.hide_env_values(true));
    // Names of subcommands then are their whole path: sluice-member-drain(1).
    root.build();
    let mut command = root;
    for word in words {
        command = named(&command, word).ok_or_else(|| {
            Failure::text(
                USAGE,
                format_args!("there is no command {}", words.join(" ")),
            )
        })?;
    }
    let version = concat!("sluice ", env!("CARGO_PKG_VERSION"));
    let man = clap_mangen::Man::new(command).source(version);
    let mut roff = Vec::new();
    man.render(&mut roff)?;
    String::from_utf8(roff).map_err(|error| Failure::new(super::FAILED, error))
}

fn named(command: &Command, word: &str) -> Option<Command> {
    command
        .get_subcommands()
        .find(|inner| inner.get_name() == word)
        .cloned()
}

/// Prints completions.
pub(crate) fn completions(shell: clap_complete::Shell) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "sluice", &mut script);
    let script = String::from_utf8(script)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    output::text(&script)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_of_its_own_name() {
        let page = render(&[]).expect("page");
        assert!(page.contains(".TH sluice 1"), "{page}");
        assert!(page.contains("Exit codes: 0 done"), "{page}");
        let words = ["member".to_owned(), "drain".to_owned()];
        let page = render(&words).expect("page");
        assert!(page.contains(".TH sluice-member-drain 1"), "{page}");
        assert!(page.contains("BALANCER"), "{page}");
    }

    #[test]
    fn a_page_of_no_command_is_a_usage_error() {
        let failure = render(&["fly".to_owned()]).expect_err("refused");
        assert_eq!(failure.code, USAGE);
    }
}
