//! Certificates, made by openssl.

use std::{fs, path::Path, process::Command};

/// A certificate of its own authority, `NAME.pem` and `NAME.key` in `dir`.
pub(crate) fn make(dir: &Path, name: &str, names: &str, kind: &[&str]) {
    let output = Command::new("openssl")
        .args(["req", "-x509", "-nodes", "-days", "30", "-subj"])
        .arg(format!("/CN={name}"))
        .args(["-addext", &format!("subjectAltName={names}")])
        .args(kind)
        .arg("-keyout")
        .arg(dir.join(format!("{name}.key")))
        .arg("-out")
        .arg(dir.join(format!("{name}.pem")))
        .output()
        .expect("openssl is installed");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// openssl in `dir`.
pub(crate) fn openssl(dir: &Path, args: &[&str]) {
    let output = Command::new("openssl")
        .args(args)
        .current_dir(dir)
        .output()
        .expect("openssl is installed");
    assert!(
        output.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// `NAME.pem` and `NAME.key` in `dir`, signed by `issuer`.
pub(crate) fn issue(dir: &Path, name: &str, issuer: &str, names: &str, days: i32, extension: &str) {
    let file = |kind: &str| format!("{name}.{kind}");
    fs::write(
        dir.join(file("ext")),
        format!("subjectAltName={names}\n{extension}"),
    )
    .expect("written");
    let subject = format!("/CN={name}");
    let mut args = vec!["req", "-new", "-nodes", "-subj", &subject];
    args.extend(EC);
    let (key, request, extensions, certificate) =
        (file("key"), file("csr"), file("ext"), file("pem"));
    args.extend(["-keyout", &key, "-out", &request]);
    openssl(dir, &args);
    let (days, own, own_key) = (
        days.to_string(),
        format!("{issuer}.pem"),
        format!("{issuer}.key"),
    );
    openssl(
        dir,
        &[
            "x509",
            "-req",
            "-in",
            &request,
            "-CA",
            &own,
            "-CAkey",
            &own_key,
            "-CAcreateserial",
            "-days",
            &days,
            "-extfile",
            &extensions,
            "-out",
            &certificate,
        ],
    );
}

/// Small keys are made and used quickly.
pub(crate) const EC: &[&str] = &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"];
pub(crate) const RSA: &[&str] = &["-newkey", "rsa:2048"];
