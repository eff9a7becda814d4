//! What tunes httpd's own process model or serves files: accepted, with one notice for each family
//! saying what sluice does instead (DESIGN section 7).

use super::{Arity, Call, Contexts, Directive, Effect, Fault, Severity, row};

#[rustfmt::skip] // One row a line: it is read as a table.
pub(super) const TABLE: &[Directive] = &[
    row("LoadModule", Contexts::SERVER, Arity::Two, "NAME FILE", "a module of httpd", MODULES),
    row("LoadFile", Contexts::SERVER, Arity::Some, "FILE ...", "a library", MODULES),
    row("StartServers", Contexts::MAIN, Arity::One, "N", "processes of httpd", MPM),
    row("ServerLimit", Contexts::MAIN, Arity::One, "N", "processes of httpd", MPM),
    row("ThreadLimit", Contexts::MAIN, Arity::One, "N", "threads of httpd", MPM),
    row("ThreadsPerChild", Contexts::MAIN, Arity::One, "N", "threads of httpd", MPM),
    row("ThreadStackSize", Contexts::MAIN, Arity::One, "BYTES", "threads of httpd", MPM),
    row("MinSpareThreads", Contexts::MAIN, Arity::One, "N", "threads of httpd", MPM),
    row("MaxSpareThreads", Contexts::MAIN, Arity::One, "N", "threads of httpd", MPM),
    row("MinSpareServers", Contexts::MAIN, Arity::One, "N", "processes of httpd", MPM),
    row("MaxSpareServers", Contexts::MAIN, Arity::One, "N", "processes of httpd", MPM),
    row("MaxRequestWorkers", Contexts::MAIN, Arity::One, "N", "threads of httpd", MPM),
    row("MaxClients", Contexts::MAIN, Arity::One, "N", "threads of httpd", MPM),
    row("MaxConnectionsPerChild", Contexts::MAIN, Arity::One, "N", "processes of httpd", MPM),
    row("MaxRequestsPerChild", Contexts::MAIN, Arity::One, "N", "processes of httpd", MPM),
    row("MaxMemFree", Contexts::MAIN, Arity::One, "KBYTES", "processes of httpd", MPM),
    row("AsyncRequestWorkerFactor", Contexts::MAIN, Arity::One, "FACTOR", "threads of httpd", MPM),
    row("ListenCoresBucketsRatio", Contexts::MAIN, Arity::One, "N", "processes of httpd", MPM),
    row("EnableExceptionHook", Contexts::MAIN, Arity::Flag, "On|Off", "processes of httpd", MPM),
    row("Mutex", Contexts::MAIN, Arity::Some, "MECHANISM [NAME ...]", "locks of httpd", RUN_FILES),
    row("PidFile", Contexts::MAIN, Arity::One, "FILE", "file with httpd's process id", RUN_FILES),
    row("ScoreBoardFile", Contexts::MAIN, Arity::One, "FILE", "shared memory of httpd", RUN_FILES),
    row("CoreDumpDirectory", Contexts::MAIN, Arity::One, "DIRECTORY", "where httpd dumps core", RUN_FILES),
    row("DefaultRuntimeDir", Contexts::MAIN, Arity::One, "DIRECTORY", "run files of httpd", RUN_FILES),
    row("ServerTokens", Contexts::MAIN, Arity::Any, "WORD ...", "how much httpd says of itself", SIGNATURE),
    row("ServerSignature", ANY, Arity::One, "On|Off|EMail", "how httpd signs its pages", SIGNATURE),
    row("ServerAdmin", Contexts::SERVER, Arity::One, "ADDRESS", "address on httpd's pages", SIGNATURE),
    row("ExtendedStatus", Contexts::MAIN, Arity::Flag, "On|Off", "what server-status shows", STATUS),
    row("ProxyStatus", Contexts::SERVER, Arity::One, "Off|On|Full", "what server-status shows: this version has no such page, `sluice status` shows the same", Effect::Apply(proxy_status)),
    row("SeeRequestTail", Contexts::MAIN, Arity::Flag, "On|Off", "what server-status shows", STATUS),
    row("<Directory", Contexts::SERVER, Arity::Some, "PATH", "settings of files", DIRECTORY),
    row("<DirectoryMatch", Contexts::SERVER, Arity::Some, "REGEX", "settings of files", DIRECTORY),
    row("<Files", ANY, Arity::Some, "NAME", "settings of files", DIRECTORY),
    row("<FilesMatch", ANY, Arity::Some, "REGEX", "settings of files", DIRECTORY),
    row("DocumentRoot", Contexts::SERVER, Arity::One, "DIRECTORY", "where files are", FILES),
    row("AccessFileName", Contexts::SERVER, Arity::Some, "NAME ...", "settings of files", FILES),
    row("DirectoryIndex", ANY, Arity::Some, "NAME ...", "files for directories", FILES),
    row("DirectorySlash", ANY, Arity::Any, "On|Off", "redirects for directories", FILES),
    row("FallbackResource", ANY, Arity::Any, "URL", "file for what is not there", FILES),
    row("Alias", Contexts::SERVER, Arity::Any, "PATH FILE", "where files are", FILES),
    row("AliasMatch", Contexts::SERVER, Arity::Any, "REGEX FILE", "where files are", FILES),
    row("ScriptAlias", Contexts::SERVER, Arity::Any, "PATH DIRECTORY", "where programs are", FILES),
    row("ScriptAliasMatch", Contexts::SERVER, Arity::Any, "REGEX DIRECTORY", "where programs are", FILES),
    row("ScriptSock", Contexts::MAIN, Arity::Any, "FILE", "socket for programs", FILES),
    row("Options", ANY, Arity::Any, "WORD ...", "settings of files", FILES),
    row("EnableSendfile", ANY, Arity::Flag, "On|Off", "how files are sent", FILES),
    row("EnableMMAP", ANY, Arity::Flag, "On|Off", "how files are sent", FILES),
    row("FileETag", ANY, Arity::Any, "WORD ...", "ETag of files", FILES),
    row("ContentDigest", ANY, Arity::Flag, "On|Off", "digest of files", FILES),
    row("TypesConfig", Contexts::MAIN, Arity::One, "FILE", "types of files", FILES),
    row("MimeMagicFile", Contexts::SERVER, Arity::One, "FILE", "types of files", FILES),
    row("AddType", ANY, Arity::Any, "TYPE NAME ...", "types of files", FILES),
    row("RemoveType", ANY, Arity::Any, "NAME ...", "types of files", FILES),
    row("AddEncoding", ANY, Arity::Any, "ENCODING NAME ...", "types of files", FILES),
    row("RemoveEncoding", ANY, Arity::Any, "NAME ...", "types of files", FILES),
    row("AddLanguage", ANY, Arity::Any, "LANGUAGE NAME ...", "languages of files", FILES),
    row("RemoveLanguage", ANY, Arity::Any, "NAME ...", "languages of files", FILES),
    row("DefaultLanguage", ANY, Arity::Any, "LANGUAGE", "languages of files", FILES),
    row("LanguagePriority", ANY, Arity::Any, "LANGUAGE ...", "languages of files", FILES),
    row("ForceLanguagePriority", ANY, Arity::Any, "WORD ...", "languages of files", FILES),
    row("AddCharset", ANY, Arity::Any, "CHARSET NAME ...", "character sets of files", FILES),
    row("AddHandler", ANY, Arity::Any, "HANDLER NAME ...", "programs for files", FILES),
    row("RemoveHandler", ANY, Arity::Any, "NAME ...", "programs for files", FILES),
    row("AddOutputFilter", ANY, Arity::Any, "FILTER NAME ...", "filters of files", FILES),
    row("IndexOptions", ANY, Arity::Any, "WORD ...", "listings of directories", FILES),
    row("IndexIgnore", ANY, Arity::Any, "NAME ...", "listings of directories", FILES),
    row("IndexOrderDefault", ANY, Arity::Any, "WORD ...", "listings of directories", FILES),
    row("AddIcon", ANY, Arity::Any, "ICON NAME ...", "listings of directories", FILES),
    row("AddIconByType", ANY, Arity::Any, "ICON TYPE ...", "listings of directories", FILES),
    row("AddIconByEncoding", ANY, Arity::Any, "ICON ENCODING ...", "listings of directories", FILES),
    row("AddAlt", ANY, Arity::Any, "TEXT NAME ...", "listings of directories", FILES),
    row("AddDescription", ANY, Arity::Any, "TEXT NAME ...", "listings of directories", FILES),
    row("DefaultIcon", ANY, Arity::Any, "ICON", "listings of directories", FILES),
    row("ReadmeName", ANY, Arity::Any, "FILE", "listings of directories", FILES),
    row("HeaderName", ANY, Arity::Any, "FILE", "listings of directories", FILES),
    row("AddOutputFilterByType", ANY, Arity::Any, "FILTER TYPE ...", "filters of responses", FILTERS),
    row("AddDefaultCharset", ANY, Arity::Any, "CHARSET|Off", "character set of responses", CHARSET),
    row("DeflateCompressionLevel", Contexts::SERVER, Arity::Any, "N", "filters of responses", COMPRESSION),
    row("DeflateFilterNote", Contexts::SERVER, Arity::Any, "NAME", "filters of responses", COMPRESSION),
    row("DeflateMemLevel", Contexts::SERVER, Arity::Any, "N", "filters of responses", COMPRESSION),
    row("DeflateWindowSize", Contexts::SERVER, Arity::Any, "N", "filters of responses", COMPRESSION),
];

const ANY: Contexts = Contexts::ALL;
const MODULES: Effect =
    Effect::Notice("nothing is loaded: the modules that sluice knows are built into it");
const MPM: Effect = Effect::Notice(
    "httpd's processes and threads are not configured: sluice runs one shard (a thread) per CPU, SluiceShards changes that",
);
const RUN_FILES: Effect = Effect::Notice(
    "httpd's run files and locks are not used: sluice has a run directory of its own for each SluiceInstance",
);
const SIGNATURE: Effect = Effect::Notice("sluice's own pages carry neither signature nor version");
const STATUS: Effect = Effect::Notice(NO_STATUS);
const NO_STATUS: &str = "this version has no server-status page: `sluice status` shows the same";
const DIRECTORY: Effect =
    Effect::Notice("sections for files are skipped: sluice serves no files, only what it proxies");
const FILES: Effect = Effect::Notice(
    "sluice serves no files: a request that no ProxyPass takes is answered with 404",
);
const COMPRESSION: Effect = Effect::Notice(
    "responses are not compressed by this version of sluice: settings of mod_deflate do nothing",
);
const FILTERS: Effect = Effect::Warning(
    "filters of responses (DEFLATE) are not applied by this version of sluice: responses pass as members send them",
);
const CHARSET: Effect = Effect::Warning(
    "AddDefaultCharset is not applied by this version of sluice: responses pass as members send them",
);

fn proxy_status(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let known = ["off", "on", "full"].map(|known| call.arg(0).eq_ignore_ascii_case(known));
    if !known.contains(&true) {
        return Err(Fault::new("ProxyStatus must be one of: off | on | full").at(0));
    }
    let place = call.node.at(None);
    call.draft.notice_once(Severity::Notice, place, NO_STATUS);
    Ok(())
}
