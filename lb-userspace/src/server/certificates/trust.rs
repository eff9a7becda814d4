//! Files about peers: authorities, revocation lists, and the certificates that members are shown.
//! Read as the others are, by control and once.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use rustls_pki_types::{
    CertificateRevocationListDer, PrivateKeyDer,
    pem::{PemObject as _, SectionKind},
};
use zeroize::Zeroizing;

use super::{CertificateError, Loaded, Why, chain, read};
use crate::{
    config::spec::{ClientVerify, MemberTls, NamedFile, PeerVerify, Spec},
    proxy::tls::{ClientFiles, Der, MemberFiles, Pair, validity, verify},
};

/// Most files of a directory that are read.
const MAX_FILES: usize = 10_000;

/// Longest chain that is put together for a client certificate.
const MAX_CHAIN: usize = 10;

/// What authorities are read from: file, directory; neither: the system's.
type Sources = [Option<PathBuf>; 2];

/// Reads what `spec` names about clients and members into `loaded.certificates`.
pub(super) fn load(spec: &Spec, loaded: &mut Loaded, errors: &mut Vec<CertificateError>) {
    let mut reader = Reader {
        loaded,
        errors,
        known: HashMap::new(),
    };
    for host in &spec.hosts {
        let verify = host.tls.as_ref().and_then(|tls| tls.clients.as_ref());
        let files = verify.map(|verify| reader.client(verify));
        reader.loaded.certificates.clients.push(files);
    }
    for settings in &spec.member_tls {
        let files = reader.member(settings);
        reader.loaded.certificates.members.push(files);
    }
}

struct Reader<'a> {
    loaded: &'a mut Loaded,
    errors: &'a mut Vec<CertificateError>,
    known: HashMap<Sources, usize>,
}

/// A directive's file, with its name.
type Named<'f> = (&'static str, &'f Option<NamedFile>);

impl Reader<'_> {
    fn client(&mut self, verify: &ClientVerify) -> ClientFiles {
        let sources = [
            ("SSLCACertificateFile", &verify.ca_file),
            ("SSLCACertificatePath", &verify.ca_path),
        ];
        let mut told = self.certificates(("SSLCADNRequestFile", &verify.request_file));
        told.extend(self.every_file(("SSLCADNRequestPath", &verify.request_path)));
        ClientFiles {
            authorities: self.authorities(sources, None),
            hints: told
                .iter()
                .filter_map(|der| validity::subject(&der.0))
                .map(|name| Der(Zeroizing::new(name.to_vec())))
                .collect(),
            crls: self.lists(
                ("SSLCARevocationFile", &verify.crl_file),
                ("SSLCARevocationPath", &verify.crl_path),
            ),
        }
    }

    fn member(&mut self, settings: &MemberTls) -> MemberFiles {
        let sources = [
            ("SSLProxyCACertificateFile", &settings.ca_file),
            ("SSLProxyCACertificatePath", &settings.ca_path),
        ];
        MemberFiles {
            authorities: (settings.verify != PeerVerify::None)
                .then(|| self.authorities(sources, Some(settings))),
            crls: self.lists(
                ("SSLProxyCARevocationFile", &settings.crl_file),
                ("SSLProxyCARevocationPath", &settings.crl_path),
            ),
            machine: self.machine(settings),
        }
    }

    fn fail(&mut self, directive: &'static str, file: &NamedFile, why: Why) {
        // Inherited by many, said once.
        if self.errors.iter().all(|known| known.file != *file) {
            self.errors.push(CertificateError {
                directive,
                file: file.clone(),
                why,
            });
        }
    }

    /// Index of what these sources hold. `system`: without them the system's count.
    fn authorities(&mut self, sources: [Named<'_>; 2], system: Option<&MemberTls>) -> usize {
        let key = sources.map(|(_, file)| file.as_ref().map(|file| file.path.clone()));
        if let Some(known) = self.known.get(&key) {
            return *known;
        }
        let [file, path] = sources;
        let mut found = if let (None, None, Some(settings)) = (file.1, path.1, system) {
            self.system(settings)
        } else {
            let mut found = self.certificates(file);
            found.extend(self.links(path, |digits| digits, certificates_of));
            found
        };
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found.dedup();
        let index = self.loaded.certificates.authorities.len();
        self.loaded.certificates.authorities.push(found);
        self.known.insert(key, index);
        index
    }

    fn system(&mut self, settings: &MemberTls) -> Vec<Der> {
        let found: Vec<Der> = rustls_native_certs::load_native_certs()
            .certs
            .into_iter()
            .map(|der| Der(Zeroizing::new(der.to_vec())))
            .filter(|der| verify::check_authority(der).is_ok())
            .collect();
        if found.is_empty() {
            let file = NamedFile {
                path: PathBuf::from("on"),
                at: settings.at.clone(),
            };
            self.fail("SSLProxyEngine", &file, Why::NoSystem);
        }
        found
    }

    /// The authorities of a file: at least one that can be used.
    fn certificates(&mut self, (directive, file): Named<'_>) -> Vec<Der> {
        let Some(file) = file else {
            return Vec::new();
        };
        self.loaded.see(&file.path);
        match certificates_of(&file.path) {
            Ok(found) => found,
            Err(why) => {
                self.fail(directive, file, why);
                Vec::new()
            }
        }
    }

    fn lists(&mut self, (directive, file): Named<'_>, path: Named<'_>) -> Vec<Der> {
        let mut found = Vec::new();
        if let Some(file) = file {
            self.loaded.see(&file.path);
            match lists_of(&file.path) {
                Ok(lists) => found.extend(lists),
                Err(why) => self.fail(directive, file, why),
            }
        }
        found.extend(self.links(
            path,
            |digits| digits.strip_prefix('r').unwrap_or(""),
            lists_of,
        ));
        found
    }

    /// What the links `HASH.NUMBER` of a directory lead to; `number` finds the number.
    fn links(
        &mut self,
        (directive, path): Named<'_>,
        number: fn(&str) -> &str,
        of: fn(&Path) -> Result<Vec<Der>, Why>,
    ) -> Vec<Der> {
        let Some(path) = path else {
            return Vec::new();
        };
        let is_link = |name: &str| {
            name.split_once('.').is_some_and(|(hash, rest)| {
                let digits = number(rest);
                hash.len() == 8
                    && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
                    && !digits.is_empty()
                    && digits.bytes().all(|byte| byte.is_ascii_digit())
            })
        };
        let mut found = Vec::new();
        for file in self.directory(directive, path, is_link) {
            match of(&file) {
                Ok(ders) => found.extend(ders),
                Err(why) => self.fail(
                    directive,
                    &NamedFile {
                        path: file,
                        at: path.at.clone(),
                    },
                    why,
                ),
            }
        }
        if found.is_empty() {
            self.fail(directive, path, Why::NoLinks);
        }
        found
    }

    /// The certificates of every file of a directory that has some.
    fn every_file(&mut self, (directive, path): Named<'_>) -> Vec<Der> {
        let Some(path) = path else {
            return Vec::new();
        };
        let files = self.directory(directive, path, |_| true);
        let found: Vec<Der> = files
            .iter()
            .filter_map(|file| certificates_of(file).ok())
            .flatten()
            .collect();
        if found.is_empty() {
            self.fail(directive, path, Why::NoFiles);
        }
        found
    }

    /// Files of a directory by name, in order.
    fn directory(
        &mut self,
        directive: &'static str,
        path: &NamedFile,
        wanted: impl Fn(&str) -> bool,
    ) -> Vec<PathBuf> {
        self.loaded.see(&path.path);
        let entries = match fs::read_dir(&path.path) {
            Ok(entries) => entries,
            Err(error) => {
                let why = match error.kind() {
                    std::io::ErrorKind::NotFound => Why::Missing,
                    _ => Why::Read(error),
                };
                self.fail(directive, path, why);
                return Vec::new();
            }
        };
        let mut files: Vec<PathBuf> = entries
            .flatten()
            .filter(|entry| entry.file_name().to_str().is_some_and(&wanted))
            .map(|entry| entry.path())
            .filter(|path| path.is_file())
            .take(MAX_FILES)
            .collect();
        files.sort();
        for file in &files {
            self.loaded.see(file);
        }
        files
    }

    /// Certificates with keys, and the way from each to its authority as far as it is known.
    fn machine(&mut self, settings: &MemberTls) -> Vec<Pair> {
        let mut found = Vec::new();
        if let Some(file) = &settings.machine_file {
            self.loaded.see(&file.path);
            match machine_of(&file.path) {
                Ok(own) => found.push(own),
                Err(why) => self.fail("SSLProxyMachineCertificateFile", file, why),
            }
        }
        if let Some(path) = &settings.machine_path {
            let directive = "SSLProxyMachineCertificatePath";
            for file in self.directory(directive, path, |_| true) {
                match machine_of(&file) {
                    Ok(own) => found.push(own),
                    Err(why) => {
                        let file = NamedFile {
                            path: file,
                            at: path.at.clone(),
                        };
                        self.fail(directive, &file, why);
                    }
                }
            }
        }
        let mut others = self.certificates((
            "SSLProxyMachineCertificateChainFile",
            &settings.machine_chain,
        ));
        let mut pairs = Vec::new();
        for (own, alone) in found {
            pairs.extend(own);
            others.extend(alone);
        }
        for pair in &mut pairs {
            lengthen(&mut pair.chain, &others);
        }
        pairs
    }
}

/// Adds issuers for as long as they are known.
fn lengthen(chain: &mut Vec<Der>, others: &[Der]) {
    while chain.len() < MAX_CHAIN {
        let Some(issuer) = chain.last().and_then(|last| validity::issuer(&last.0)) else {
            return;
        };
        let next = others
            .iter()
            .find(|other| validity::subject(&other.0) == Some(issuer) && !chain.contains(other));
        match next {
            Some(next) => chain.push(next.clone()),
            None => return,
        }
    }
}

/// The authorities in a file. One that cannot be used is an error: who names it relies on it.
fn certificates_of(path: &Path) -> Result<Vec<Der>, Why> {
    let found = chain(&read(path)?)?;
    let mut last = None;
    let usable: Vec<Der> = found
        .into_iter()
        .filter(|der| match verify::check_authority(der) {
            Ok(()) => true,
            Err(error) => {
                last = Some(error);
                false
            }
        })
        .collect();
    match last {
        // A bundle of hundreds may hold one of an odd kind; then the others still count.
        Some(error) if usable.is_empty() => Err(Why::Unusable(error.to_string())),
        _ => Ok(usable),
    }
}

/// The revocation lists in a file.
fn lists_of(path: &Path) -> Result<Vec<Der>, Why> {
    let text = read(path)?;
    let lists = CertificateRevocationListDer::pem_slice_iter(&text)
        .map(|list| list.map(|list| Der(Zeroizing::new(list.to_vec()))))
        .collect::<Result<Vec<_>, _>>()
        .map_err(Why::Pem)?;
    if lists.is_empty() {
        return Err(Why::NoList);
    }
    for list in &lists {
        verify::check_list(list).map_err(|error| Why::Unusable(error.to_string()))?;
    }
    Ok(lists)
}

/// Pairs in a file, and its certificates without a key.
fn machine_of(path: &Path) -> Result<(Vec<Pair>, Vec<Der>), Why> {
    let text = read(path)?;
    super::check_clear(&text)?;
    let mut certificates = chain(&text)?;
    let mut keys = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(&text) {
        let (kind, bytes) = section.map_err(Why::Pem)?;
        let bytes = Zeroizing::new(bytes);
        let key = match kind {
            SectionKind::PrivateKey => PrivateKeyDer::Pkcs8(bytes.to_vec().into()),
            SectionKind::RsaPrivateKey => PrivateKeyDer::Pkcs1(bytes.to_vec().into()),
            SectionKind::EcPrivateKey => PrivateKeyDer::Sec1(bytes.to_vec().into()),
            _ => continue,
        };
        keys.push(Der(Zeroizing::new(key.secret_der().to_vec())));
    }
    if keys.is_empty() {
        return Err(Why::NoKey(""));
    }
    let mut pairs = Vec::new();
    for key in keys {
        let own = (0..certificates.len()).find_map(|at| {
            let pair = Pair {
                chain: vec![certificates[at].clone()],
                key: key.clone(),
            };
            pair.certify().ok().map(|_| (at, pair))
        });
        let Some((at, pair)) = own else {
            return Err(Why::Mismatch(path.display().to_string()));
        };
        certificates.remove(at);
        pairs.push(pair);
    }
    Ok((pairs, certificates))
}
