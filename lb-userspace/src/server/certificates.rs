//! Certificate and key files: read by control, which may, and checked before anything depends on
//! them. What is read goes to the proxy in memory; here nothing of it is shown or written.

mod trust;

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rustls::{Error, InconsistentKeys};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{self, PemObject as _},
};
use zeroize::Zeroizing;

use crate::{
    config::spec::{CertificateFiles, NamedFile, Spec, Tls},
    proxy::tls::{Certificates, Der, Pair, outcome},
};

/// Largest file that is read, bytes.
const MAX_FILE: u64 = 1 << 20;

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}:{}: {directive} {}: {why}", file.at.file.display(), file.at.line, file.path.display())]
pub(crate) struct CertificateError {
    directive: &'static str,
    file: NamedFile,
    why: Why,
}

/// What is wrong with it.
#[derive(Debug, thiserror::Error)]
enum Why {
    #[error("the file does not exist")]
    Missing,
    #[error("the file is empty")]
    Empty,
    #[error("not readable: {0}")]
    Read(#[from] io::Error),
    #[error("not a regular file")]
    NoFile,
    #[error("longer than {MAX_FILE} bytes: that is no certificate or key")]
    TooLong,
    #[error("not PEM: {0}")]
    Pem(pem::Error),
    #[error("no certificate in it (-----BEGIN CERTIFICATE-----)")]
    NoCertificate,
    #[error("no private key in it{0}")]
    NoKey(&'static str),
    #[error(
        "the key needs a passphrase, and sluice asks for none: `openssl pkey -in FILE -out NEW` writes one without"
    )]
    Encrypted,
    #[error("AH02565: certificate and private key do not match (the key is {0})")]
    Mismatch(String),
    #[error("not usable: {0}")]
    Rustls(Error),
    #[error("no revocation list in it (-----BEGIN X509 CRL-----)")]
    NoList,
    #[error("not usable: {0}")]
    Unusable(String),
    #[error("no links by hash in it: `openssl rehash DIRECTORY` makes them")]
    NoLinks,
    #[error("no file in it can be used")]
    NoFiles,
    #[error(
        "no certificate of an authority is to be found on this system: install ca-certificates, or name SSLProxyCACertificateFile"
    )]
    NoSystem,
}

/// What the files of a configuration hold.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    /// For the proxy.
    pub(crate) certificates: Certificates,
    /// Certificates that are out of date, in words.
    pub(crate) warnings: Vec<String>,
    /// For [`Watch::new`].
    files: Vec<(PathBuf, Option<Stamp>)>,
}

impl Loaded {
    /// Remembers a file, or a directory. Before it is read: what is written in between is noticed
    /// later.
    fn see(&mut self, path: &Path) {
        if self.files.iter().all(|(known, _)| known != path) {
            self.files.push((path.to_owned(), stamp(path)));
        }
    }
}

/// Reads every file of a configuration once; all that is wrong, each with its directive.
pub(crate) fn load(spec: &Spec) -> Result<Loaded, Vec<CertificateError>> {
    let mut loaded = Loaded::default();
    let mut errors: Vec<CertificateError> = Vec::new();
    // A pair that many hosts name is read and checked once.
    let mut known: HashMap<[Option<&Path>; 3], usize> = HashMap::new();
    for host in &spec.hosts {
        let mut own = Vec::new();
        let wanted = host
            .tls
            .iter()
            .flat_map(|tls| tls.certificates.iter().map(move |files| (tls, files)));
        for (tls, files) in wanted {
            let key = [
                Some(files.certificate.path.as_path()),
                files.key.as_ref().map(|file| file.path.as_path()),
                tls.chain.as_ref().map(|file| file.path.as_path()),
            ];
            if let Some(&index) = known.get(&key) {
                own.push(index);
                continue;
            }
            match pair(files, tls, &mut loaded) {
                Ok(pair) => {
                    let pairs = &mut loaded.certificates.pairs;
                    known.insert(key, pairs.len());
                    own.push(pairs.len());
                    pairs.push(pair);
                }
                Err(error) => {
                    // Inherited by many hosts, said once.
                    let new = errors.iter().all(|known| known.file != error.file);
                    if new {
                        errors.push(error);
                    }
                }
            }
        }
        loaded.certificates.hosts.push(own);
    }
    trust::load(spec, &mut loaded, &mut errors);
    if errors.is_empty() {
        Ok(loaded)
    } else {
        Err(errors)
    }
}

/// Files with certificates that are shown to somebody, and until when these are valid. Of several in
/// one file: the first that ends.
pub(crate) fn expiries(spec: &Spec, certificates: &Certificates) -> Vec<(String, Duration)> {
    let hosts = spec.hosts.iter().zip(&certificates.hosts);
    let hosts = hosts.flat_map(|(host, pairs)| {
        let files = host.tls.iter().flat_map(|tls| &tls.certificates);
        files.zip(pairs).filter_map(|(files, pair)| {
            let pair = certificates.pairs.get(*pair)?;
            Some((&files.certificate, pair))
        })
    });
    let members = spec.member_tls.iter().zip(&certificates.members);
    let members = members.flat_map(|(settings, files)| {
        let file = settings.machine_file.iter().chain(&settings.machine_path);
        file.flat_map(|file| files.machine.iter().map(move |pair| (file, pair)))
    });
    let mut found: BTreeMap<String, Duration> = BTreeMap::new();
    for (file, pair) in hosts.chain(members) {
        let Some(until) = pair.chain.first().and_then(|own| outcome::expiry(&own.0)) else {
            continue;
        };
        let name = file.path.display().to_string();
        let known = found.entry(name).or_insert(until);
        *known = until.min(*known);
    }
    found.into_iter().collect()
}

/// All of them, a line each.
pub(crate) fn lines(errors: &[CertificateError]) -> String {
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

#[expect(
    clippy::result_large_err,
    reason = "made once for each file of a start or a reload"
)]
fn pair(
    files: &CertificateFiles,
    tls: &Tls,
    loaded: &mut Loaded,
) -> Result<Pair, CertificateError> {
    const CERTIFICATE: &str = "SSLCertificateFile";
    const KEY: &str = "SSLCertificateKeyFile";
    let fail = |directive, file: &NamedFile| {
        let file = file.clone();
        move |why| CertificateError {
            directive,
            file,
            why,
        }
    };
    let mut seen = |file: &NamedFile| loaded.see(&file.path);
    let certificate = &files.certificate;
    seen(certificate);
    let text = read(&certificate.path).map_err(fail(CERTIFICATE, certificate))?;
    let mut chain = chain(&text).map_err(fail(CERTIFICATE, certificate))?;
    let (directive, key_file) = match &files.key {
        Some(file) => (KEY, file),
        None => (CERTIFICATE, certificate),
    };
    seen(key_file);
    let key_text = match &files.key {
        Some(file) => read(&file.path).map_err(fail(KEY, file))?,
        None => text,
    };
    let hint = match files.key {
        Some(_) => "",
        None => ", and no SSLCertificateKeyFile names its file",
    };
    let key = key(&key_text, hint).map_err(fail(directive, key_file))?;
    if let Some(file) = &tls.chain {
        seen(file);
        let directive = "SSLCertificateChainFile";
        let text = read(&file.path).map_err(fail(directive, file))?;
        chain.extend(self::chain(&text).map_err(fail(directive, file))?);
    }
    let pair = Pair { chain, key };
    pair.certify().map_err(|error| {
        let why = match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                Why::Mismatch(key_file.path.display().to_string())
            }
            Error::General(_) => {
                return fail(directive, key_file)(Why::Rustls(error));
            }
            other => Why::Rustls(other),
        };
        fail(CERTIFICATE, certificate)(why)
    })?;
    if let Some(valid) = crate::proxy::tls::validity::of(&pair.chain[0].0)
        && let Some(complaint) = valid.complaint(SystemTime::now())
    {
        loaded.warnings.push(format!(
            "{}:{}: {CERTIFICATE} {}: {complaint}",
            certificate.at.file.display(),
            certificate.at.line,
            certificate.path.display(),
        ));
    }
    Ok(pair)
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, Why> {
    let file = OpenOptions::new()
        .read(true)
        // A FIFO without a writer must not hold up the start.
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Why::Missing,
            _ => Why::Read(error),
        })?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(Why::NoFile);
    }
    if found.len() > MAX_FILE {
        return Err(Why::TooLong);
    }
    let bytes = read_all(file, found.len())?;
    if bytes.is_empty() {
        return Err(Why::Empty);
    }
    Ok(bytes)
}

fn read_all(file: File, length: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    // As large as it will be: what a growing buffer leaves behind would not be wiped.
    let mut bytes = Zeroizing::new(Vec::with_capacity(length as usize + 1));
    file.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn chain(text: &[u8]) -> Result<Vec<Der>, Why> {
    let chain = CertificateDer::pem_slice_iter(text)
        .map(|der| der.map(|der| Der(Zeroizing::new(der.to_vec()))))
        .collect::<Result<Vec<_>, _>>()
        .map_err(Why::Pem)?;
    if chain.is_empty() {
        return Err(Why::NoCertificate);
    }
    Ok(chain)
}

/// Refuses a file with a key that needs a passphrase.
fn check_clear(text: &[u8]) -> Result<(), Why> {
    let has = |part: &[u8]| text.windows(part.len()).any(|bytes| bytes == part);
    if has(b"-----BEGIN ENCRYPTED PRIVATE KEY-----") || has(b"Proc-Type: 4,ENCRYPTED") {
        return Err(Why::Encrypted);
    }
    Ok(())
}

fn key(text: &[u8], hint: &'static str) -> Result<Der, Why> {
    check_clear(text)?;
    match PrivateKeyDer::from_pem_slice(text) {
        Ok(key) => Ok(Der(Zeroizing::new(key.secret_der().to_vec()))),
        Err(pem::Error::NoItemsFound) => Err(Why::NoKey(hint)),
        Err(error) => Err(Why::Pem(error)),
    }
}

/// What tells that a file is another one now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

fn stamp(path: &Path) -> Option<Stamp> {
    let found = fs::metadata(path).ok()?;
    Some(Stamp {
        device: found.dev(),
        inode: found.ino(),
        size: found.size(),
        modified: (found.mtime(), found.mtime_nsec()),
    })
}

/// Notices when certificate or key files are replaced.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    files: Vec<(PathBuf, Option<Stamp>)>,
    /// How they were at the last look, when that was not how they were read.
    changing: Option<Vec<Option<Stamp>>>,
}

impl Watch {
    /// Of the files that were just read.
    pub(crate) fn new(loaded: &Loaded) -> Self {
        Self {
            files: loaded.files.clone(),
            changing: None,
        }
    }

    /// Whether files changed and have stayed as they are since the look before: who replaces a
    /// certificate writes its key too. A change is told once.
    pub(crate) fn has_changed(&mut self) -> bool {
        let now: Vec<Option<Stamp>> = self.files.iter().map(|(path, _)| stamp(path)).collect();
        if self.files.iter().map(|(_, stamp)| stamp).eq(now.iter()) {
            self.changing = None;
            return false;
        }
        if self.changing.as_ref() != Some(&now) {
            self.changing = Some(now);
            return false;
        }
        self.changing = None;
        for ((_, known), now) in self.files.iter_mut().zip(now) {
            *known = now;
        }
        true
    }
}

#[cfg(test)]
mod tests;
