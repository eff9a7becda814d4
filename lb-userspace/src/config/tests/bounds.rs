//! Noise, sizes and loops: one clear message, bounded work.

use std::fmt::Write as _;

use super::*;

fn errors(loaded: &Loaded) -> Vec<&str> {
    said(loaded, Severity::Error)
        .into_iter()
        .map(|(_, message)| message)
        .collect()
}

#[test]
fn binary_noise_is_one_error() {
    let noise: Vec<u8> = (0..10_u32 << 20)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let loaded = read(noise);
    let errors = errors(&loaded);
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(
        errors[0].contains("is not a text file: NUL byte in line"),
        "{errors:?}"
    );
}

#[test]
fn text_noise_is_a_hundred_errors_and_a_count() {
    let noise = "q8fK2 zzP\n".repeat(1 << 20);
    let loaded = read(noise);
    let last = loaded.reports.last().map(|report| report.message.as_str());
    assert_eq!(
        last,
        Some("and 299901 more errors"),
        "300000 directives and that there are more"
    );
    assert_eq!(loaded.reports.len(), 101);
    assert!(rendered(&loaded).lines().all(|line| line.len() < 400));
}

#[test]
fn a_file_over_16_mib_is_refused() {
    let loaded = read(vec![b'#'; (16 << 20) + 1]);
    assert_eq!(
        errors(&loaded)[0],
        "/etc/sluice.conf is larger than 16777216 bytes"
    );
}

#[test]
fn a_directory_for_a_file_says_so() {
    let source = Memory::new("/etc/sluice.conf/a", "Listen 80");
    let loaded = read_from(&source);
    assert_eq!(
        errors(&loaded)[0],
        "is a directory, not a configuration file"
    );
    assert_eq!(loaded.reports.len(), 1, "and nothing else");
}

#[test]
fn a_missing_file_says_so() {
    let source = Memory::new("/etc/other", "");
    let loaded = read_from(&source);
    assert_eq!(
        errors(&loaded),
        ["Could not open configuration file: No such file or directory"]
    );
}

#[test]
fn what_is_not_utf8_is_told_by_line_and_comments_are_free() {
    let loaded = read(b"# caf\xe9\nListen 80\nServerName caf\xe9.test\n".to_vec());
    let said = said(&loaded, Severity::Error);
    assert_eq!(said[0], (3, "not UTF-8"));
    let latin1_comment = read(b"# caf\xe9\nListen 80\n".to_vec());
    assert!(latin1_comment.spec.is_some());
}

#[test]
fn a_file_that_includes_itself_says_so() {
    let source = Memory::new("/etc/sluice.conf", "Listen 80\nInclude a.conf")
        .with("/etc/a.conf", "Include b.conf")
        .with("/etc/b.conf", "\nInclude a.conf");
    let loaded = read_from(&source);
    assert_eq!(errors(&loaded), ["/etc/a.conf includes itself"]);
    assert_eq!(loaded.reports[0].line, 2);
}

#[test]
fn includes_go_128_deep_and_no_deeper() {
    let chain = |length: u32| {
        let mut source = Memory::new("/etc/sluice.conf", "Listen 80\nInclude f1");
        for number in 1..length {
            source = source.with(
                &format!("/etc/f{number}"),
                format!("Include f{}", number + 1),
            );
        }
        source.with(&format!("/etc/f{length}"), "KeepAlive Off")
    };
    let deep = read_from(&chain(128));
    assert!(deep.spec.is_some_and(|spec| !spec.hosts[0].keep_alive));
    let too_deep = read_from(&chain(129));
    assert!(errors(&too_deep)[0].starts_with("Exceeded the maximum include depth of 128"));
}

#[test]
fn variables_of_variables_cannot_fill_the_memory() {
    let mut text = "Listen 80\nDefine A0 xxxxxxxxxxxxxxxx\n".to_owned();
    for number in 1..64 {
        let before = number - 1;
        let _ = writeln!(text, "Define A{number} ${{A{before}}}${{A{before}}}");
    }
    let loaded = read(text);
    let errors = errors(&loaded);
    assert_eq!(errors[0], "line longer than 1048576 bytes");
}

#[test]
fn files_that_include_twice_end_at_the_limit_of_files() {
    let mut source = Memory::new("/etc/sluice.conf", "Include f1\nInclude f1");
    for number in 1..40 {
        let next = format!("Include f{0}\nInclude f{0}\n", number + 1);
        source = source.with(&format!("/etc/f{number}"), next);
    }
    let loaded = read_from(&source.with("/etc/f40", ""));
    assert!(
        errors(&loaded)[0].starts_with("more than 10000 files"),
        "{:?}",
        errors(&loaded)[0]
    );
}

#[test]
fn sections_nest_64_deep_and_no_deeper() {
    let loaded = read("<a>\n".repeat(100_000));
    assert!(rendered(&loaded).contains("sections nested deeper than 64"));
}

#[test]
fn too_many_directives_are_told() {
    let loaded = read("Listen 80\n".to_owned() + &"KeepAlive On\n".repeat(300_001));
    assert!(
        errors(&loaded)[0].starts_with("configuration too large"),
        "{:?}",
        errors(&loaded)
    );
}

#[test]
fn a_large_real_configuration_is_read() {
    let mut text = String::from("Listen 80\n");
    for number in 0..3000 {
        let (high, low) = (number / 250, number % 250);
        let _ = writeln!(
            text,
            "<VirtualHost *:80>\nServerName h{number}.test\nProxyPass / http://10.0.{high}.{low}/\n</VirtualHost>"
        );
    }
    let spec = spec(&text);
    assert_eq!((spec.hosts.len(), spec.balancers.len()), (3001, 3000));
}
