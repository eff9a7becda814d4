//! Names that httpd knows, or DESIGN section 7 plans, and that this version refuses: so that a
//! right name is not taken for a misspelt one.

/// Whether a name, a section's with `<`, is one of these; families by how they begin.
pub(super) fn is_foreign(name: &str) -> bool {
    NAMES.iter().any(|known| known.eq_ignore_ascii_case(name))
        || PREFIXES.iter().any(|prefix| {
            name.get(..prefix.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
                && name.len() > prefix.len()
        })
}

/// What to do about one of them.
pub(super) fn instead(name: &str) -> &'static str {
    let name = name.trim_start_matches('<').to_ascii_lowercase();
    let of = |families: &[&str]| families.iter().any(|family| name.starts_with(family));
    if of(&["steer", "guard"]) {
        "until a version has it: remove the line"
    } else if of(&["ssl", "md"]) {
        "sluice has rustls where httpd has OpenSSL: what it takes is in docs/tls.md"
    } else if of(&["rewrite"]) {
        "write it outside of sections, or in a <Location>"
    } else {
        "to keep it for httpd alone, put it into <IfModule !sluice_module>"
    }
}

/// All of them, for suggestions and documentation.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    NAMES.iter().copied()
}

/// Families too long to list, by how their names begin.
const PREFIXES: [&str; 2] = ["SSLOCSP", "Session"];

const NAMES: &[&str] = &[
    // DESIGN section 7, not in this version.
    "GuardSynCookies",
    "GuardPenalty",
    // Sections.
    "<Macro",
    "<AuthnProviderAlias",
    "<AuthzProviderAlias",
    // mod_proxy and friends.
    "ProxyHTMLEnable",
    "ProxyHTMLURLMap",
    "ProxyHTMLLinks",
    "ProxyFtpDirCharset",
    "ProxyExpressEnable",
    "ProxyExpressDBMFile",
    "ProxyExpressDBMType",
    // mod_ssl.
    "SSLSessionTicketKeyFile",
    "SSLRequire",
    "SSLOpenSSLConfCmd",
    "SSLPolicy",
    "SSLUserName",
    "SSLRenegBufferSize",
    "SSLSRPVerifierFile",
    "SSLSRPUnknownUserSeed",
    "SSLStaplingResponseTimeSkew",
    "SSLStaplingResponseMaxAge",
    "SSLStaplingForceURL",
    // Protocols: lines for each response.
    "H2EarlyHint",
    // Headers, rewriting, answers.
    "BufferedLogs",
    "CookieLog",
    "SetInputFilter",
    "SetOutputFilter",
    "ForceType",
    "FilterDeclare",
    "FilterProvider",
    "FilterChain",
    "Substitute",
    "ExpiresActive",
    "ExpiresByType",
    "ExpiresDefault",
    "RemoteIPHeader",
    "RemoteIPInternalProxy",
    "RemoteIPTrustedProxy",
    "RemoteIPProxyProtocol",
    "RemoteIPProxyProtocolExceptions",
    "RemoteIPProxiesHeader",
    "RemoteIPInternalProxyList",
    "RemoteIPTrustedProxyList",
    "UniqueIDHeader",
    "LogIOTrackTTFB",
    "DumpIOInput",
    "DumpIOOutput",
    "KeptBodySize",
    "MergeSlashes",
    "AcceptPathInfo",
    "MaxRanges",
    "MaxRangeOverlaps",
    "MaxRangeReversals",
    "LimitInternalRecursion",
    "LimitXMLRequestBody",
    "ServerPath",
    "RegexDefaultOptions",
    "QualifyRedirectURL",
    "FlushMaxThreshold",
    "FlushMaxPipelined",
    "ReadBufferSize",
    "RegisterHttpMethod",
    "RLimitCPU",
    "RLimitMEM",
    "RLimitNPROC",
    "ChrootDir",
    "Suexec",
    "Use",
    "UndefMacro",
    "Error",
    "Warning",
    // Access.
    "AuthType",
    "AuthName",
    "AuthUserFile",
    "AuthGroupFile",
    "AuthBasicProvider",
    "AuthBasicAuthoritative",
    "AuthDigestProvider",
    "AuthzSendForbiddenOnFailure",
    "AuthFormProvider",
    "AllowMethods",
    "AllowOverride",
    "AllowOverrideList",
    // Caching and others that act on responses.
    "CacheEnable",
    "CacheDisable",
    "CacheRoot",
    "CacheQuickHandler",
    "CacheLock",
    "SecRuleEngine",
    "SecRule",
    "BrotliCompressionQuality",
    "BrotliFilterNote",
    "WatchdogInterval",
    "HeartbeatAddress",
    "LDAPTrustedGlobalCert",
    "UserDir",
    "MDomain",
    "<MDomainSet",
];
