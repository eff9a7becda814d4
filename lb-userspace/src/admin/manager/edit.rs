//! A submission's settings, and what they do to a balancer of the configuration.

use std::time::Duration;

use lb_common::member::MemberState;
use serde::{Deserialize, Serialize};

use crate::{
    admin::{change, protocol::MemberChange},
    config::{
        self,
        spec::{Balancer, Check, LbMethod, Scheme, Sticky},
    },
};

/// lbmethods by name, in the order of the form.
pub const LBMETHODS: [(&str, LbMethod); 6] = LbMethod::NAMES;

/// Methods of health checks by name, in the order of the form.
pub const CHECKS: [(&str, Option<Check>); 8] = [
    ("NONE", None),
    ("TCP", Some(Check::Tcp)),
    ("OPTIONS", Some(Check::Options)),
    ("HEAD", Some(Check::Head)),
    ("GET", Some(Check::Get)),
    ("OPTIONS11", Some(Check::Options11)),
    ("HEAD11", Some(Check::Head11)),
    ("GET11", Some(Check::Get11)),
];

/// What is submitted: everything is done, or nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Submission {
    /// The balancer's name in the configuration.
    pub balancer: String,
    /// The member's URL; `None`: the balancer itself is meant.
    pub member: Option<String>,
    /// What is to be set.
    pub settings: Vec<Setting>,
}

/// One field of the form.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Setting {
    /// What the member table holds: `w_lf`, `w_ls`.
    Slot(MemberChange),
    /// `w_status_*`.
    Status(Letter, bool),
    /// `w_wr`.
    Route(String),
    /// `w_rr`.
    Redirect(String),
    /// `w_hm`; `None`: no checks.
    HealthMethod(Option<Check>),
    /// `w_hi`, at least 100.
    HealthIntervalMs(u64),
    /// `w_hp`, at least 1.
    HealthPasses(u32),
    /// `w_hf`, at least 1.
    HealthFails(u32),
    /// `w_hu`.
    HealthUri(String),
    /// `w_he`: the name of an expression.
    HealthExpr(String),
    /// `b_lbm`.
    LbMethod(LbMethod),
    /// `b_tmo`, 0..=7200.
    TimeoutSeconds(u64),
    /// `b_max`, 0..=99.
    MaxAttempts(u32),
    /// `b_sforce`.
    NoFailover(bool),
    /// `b_ss`: cookie and path parameter; `None`: no sessions.
    Sticky(Option<(String, String)>),
    /// `b_nwrkr`: URL of a member to be added.
    Add(String),
}

/// A letter of `w_status_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Letter {
    /// Ignore errors.
    I,
    /// Drain.
    N,
    /// Disabled.
    D,
    /// Hot standby.
    H,
    /// Hot spare.
    R,
    /// Stopped.
    S,
    /// Health check failed.
    C,
}

impl Setting {
    /// Whether its value is one that a form may have: what comes from the proxy process or from a
    /// file was not checked by this one.
    pub fn is_valid(&self) -> bool {
        let short = |text: &str| text.len() < 64 && !text.contains(char::is_control);
        match self {
            Self::Slot(MemberChange::LoadFactor { lbfactor }) => (100..=10_000).contains(lbfactor),
            Self::Slot(MemberChange::LbSet { lbset }) => *lbset <= 99,
            Self::Slot(_) => false,
            Self::Route(text) | Self::Redirect(text) | Self::HealthUri(text) => short(text),
            Self::HealthIntervalMs(ms) => (100..=i64::MAX.unsigned_abs() / 1_000_000).contains(ms),
            Self::HealthPasses(count) | Self::HealthFails(count) => *count >= 1,
            Self::TimeoutSeconds(seconds) => *seconds <= 7200,
            Self::MaxAttempts(attempts) => *attempts <= 99,
            Self::Sticky(Some((cookie, path))) => {
                short(cookie) && short(path) && !cookie.is_empty() && !path.is_empty()
            }
            Self::Add(text) | Self::HealthExpr(text) => {
                text.len() <= super::form::MOST_BYTES && !text.contains(char::is_control)
            }
            Self::Status(..)
            | Self::HealthMethod(_)
            | Self::LbMethod(_)
            | Self::NoFailover(_)
            | Self::Sticky(None) => true,
        }
    }
}

impl Letter {
    /// By its letter.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "I" => Self::I,
            "N" => Self::N,
            "D" => Self::D,
            "H" => Self::H,
            "R" => Self::R,
            "S" => Self::S,
            "C" => Self::C,
            _ => return None,
        })
    }

    /// In the order of the form, with its words.
    pub const ALL: [(Self, char, &str); 7] = [
        (Self::I, 'I', "Ignore Errors"),
        (Self::N, 'N', "Draining Mode"),
        (Self::D, 'D', "Disabled"),
        (Self::H, 'H', "Hot Standby"),
        (Self::R, 'R', "Hot Spare"),
        (Self::C, 'C', "HC Fail"),
        (Self::S, 'S', "Stopped"),
    ];

    /// Its bit.
    pub const fn bit(self) -> u64 {
        match self {
            Self::I => MemberState::IGNORE_ERRORS,
            Self::N => MemberState::DRAIN,
            Self::D => MemberState::DISABLED,
            Self::H => MemberState::STANDBY,
            Self::R => MemberState::SPARE,
            Self::S => MemberState::STOPPED,
            Self::C => MemberState::HEALTH_FAILED,
        }
    }

    fn letter(self) -> char {
        Self::ALL
            .iter()
            .find(|(this, ..)| *this == self)
            .map_or('?', |(_, letter, _)| *letter)
    }
}

/// What the member table holds of a member now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// State bits.
    pub state: MemberState,
    /// Times 100.
    pub lbfactor: u32,
    /// Set.
    pub lbset: u8,
}

/// Why a submission is refused as a whole.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EditError {
    /// A setting of a member without one, or of a balancer with one.
    #[error("the form mixes fields of a member with those of a balancer")]
    Mixed,
    /// There already.
    #[error("AH10164: balancer://{balancer}: failed to add worker {url}: it is a member already")]
    Duplicate {
        /// Its balancer.
        balancer: String,
        /// Its URL.
        url: String,
    },
    /// `growth` is used up.
    #[error(
        "AH10163: balancer://{balancer}: failed to add worker {url}: no room, growth={growth} (members that may be added) is used up"
    )]
    NoRoom {
        /// Its balancer.
        balancer: String,
        /// Its URL.
        url: String,
        /// As configured.
        growth: u32,
    },
    /// No member can be made of it.
    #[error("AH10163: balancer://{balancer}: failed to add worker {url}: {problem}")]
    Url {
        /// Its balancer.
        balancer: String,
        /// As asked.
        url: String,
        /// What is wrong.
        problem: String,
    },
    /// Something that this version cannot do.
    #[error("{0}")]
    Unsupported(String),
}

impl EditError {
    /// Whether httpd answers 400 (apache.md 9.2).
    pub const fn is_bad_request(&self) -> bool {
        matches!(
            self,
            Self::Duplicate { .. } | Self::NoRoom { .. } | Self::Url { .. }
        )
    }
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// The balancer as it is to be; `None`: as it is.
    pub balancer: Option<Balancer>,
    /// Changes of the member's slot.
    pub slot: Vec<MemberChange>,
    /// What changes in the balancer, in words.
    pub done: Vec<String>,
}

/// Works a submission out. Settings that are so already do nothing: forms send every field.
///
/// `member` is the index of the member that is meant with what the table holds of it.
pub fn plan(
    balancer: &Balancer,
    member: Option<(usize, Live)>,
    settings: &[Setting],
) -> Result<Plan, EditError> {
    let mut plan = Plan::default();
    let mut next = balancer.clone();
    let (mut set, mut clear) = (String::new(), String::new());
    for setting in settings {
        match setting {
            Setting::Slot(_) | Setting::Status(..) => {
                let (_, live) = member.ok_or(EditError::Mixed)?;
                match setting {
                    Setting::Slot(MemberChange::LoadFactor { lbfactor })
                        if *lbfactor == live.lbfactor => {}
                    Setting::Slot(MemberChange::LbSet { lbset }) if *lbset == live.lbset => {}
                    Setting::Slot(
                        slot @ (MemberChange::LoadFactor { .. } | MemberChange::LbSet { .. }),
                    ) => {
                        change::check(slot)
                            .map_err(|error| EditError::Unsupported(error.to_string()))?;
                        plan.slot.push(slot.clone());
                    }
                    Setting::Status(letter, on) if live.state.has(letter.bit()) != *on => {
                        if *letter == Letter::C {
                            return Err(EditError::Unsupported(
                                "w_status_C: the health check alone says whether it failed; \
                                 nothing was changed"
                                    .to_owned(),
                            ));
                        }
                        let flags = if *on { &mut set } else { &mut clear };
                        flags.push(letter.letter());
                    }
                    _ => {}
                }
            }
            setting => change_spec(&mut next, member.map(|(m, _)| m), setting, &mut plan)?,
        }
    }
    let mut flags = String::new();
    if !set.is_empty() {
        flags.extend(["+", &set]);
    }
    if !clear.is_empty() {
        flags.extend(["-", &clear]);
    }
    if !flags.is_empty() {
        plan.slot.push(MemberChange::Status { flags });
    }
    if next != *balancer {
        plan.balancer = Some(next);
    }
    Ok(plan)
}

/// Does what a setting asks to the configuration's balancer.
fn change_spec(
    balancer: &mut Balancer,
    member: Option<usize>,
    setting: &Setting,
    plan: &mut Plan,
) -> Result<(), EditError> {
    let before = balancer.clone();
    match apply(balancer, member, setting) {
        Ok(words) => {
            if let Setting::Add(url) = setting
                && before.manage.added >= before.manage.growth
            {
                return Err(EditError::NoRoom {
                    balancer: before.written().to_owned(),
                    url: url.clone(),
                    growth: before.manage.growth,
                });
            }
            if *balancer != before {
                plan.done.push(words);
            }
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Applies a setting of the configuration to its balancer; the words say what it did. Also used when
/// what was set before is set again, after a reload or a restart.
pub fn apply(
    balancer: &mut Balancer,
    member: Option<usize>,
    setting: &Setting,
) -> Result<String, EditError> {
    let of_member = |balancer: &mut Balancer| member.filter(|m| *m < balancer.members.len());
    let words = match setting {
        Setting::Slot(_) | Setting::Status(..) => return Err(EditError::Mixed),
        Setting::LbMethod(method) => {
            balancer.lbmethod = *method;
            format!("lbmethod {}", name_of(*method))
        }
        Setting::TimeoutSeconds(seconds) => {
            balancer.timeout = Duration::from_secs(*seconds);
            format!("timeout {seconds} s")
        }
        Setting::MaxAttempts(attempts) => {
            // A form shows 0 where none is given.
            if balancer.maxattempts.is_some() || *attempts != 0 {
                balancer.maxattempts = Some(*attempts);
            }
            format!("maxattempts {attempts}")
        }
        Setting::NoFailover(on) => {
            balancer.nofailover = *on;
            format!("nofailover {}", if *on { "on" } else { "off" })
        }
        Setting::Sticky(None) => {
            if let Some(sticky) = balancer.sticky.take() {
                balancer.manage.sticky = Some(sticky);
            }
            "no sticky sessions".to_owned()
        }
        Setting::Sticky(Some((cookie, path))) => {
            // What the file says of separators and of who writes the cookie goes on to count.
            let before = balancer.manage.sticky.take();
            let sticky = balancer.sticky.get_or_insert_with(|| {
                before.unwrap_or(Sticky {
                    cookie: String::new(),
                    path: String::new(),
                    separator: Some('.'),
                    scolonpathdelim: false,
                    cookie_written: false,
                })
            });
            sticky.cookie.clone_from(cookie);
            sticky.path.clone_from(path);
            format!("stickysession {cookie}|{path}")
        }
        Setting::Add(url) => add(balancer, url)?,
        setting => {
            let at = of_member(balancer).ok_or(EditError::Mixed)?;
            let health = &mut balancer.members[at].health;
            match setting {
                Setting::HealthMethod(check) => {
                    health.check = *check;
                    format!("hcmethod {}", check_name(*check))
                }
                Setting::HealthIntervalMs(ms) => {
                    health.interval = Duration::from_millis(*ms);
                    format!("hcinterval {ms} ms")
                }
                Setting::HealthPasses(count) => {
                    health.passes = *count;
                    format!("hcpasses {count}")
                }
                Setting::HealthFails(count) => {
                    health.fails = *count;
                    format!("hcfails {count}")
                }
                Setting::HealthUri(uri) => {
                    if !uri.bytes().all(|byte| byte.is_ascii_graphic()) {
                        return Err(EditError::Unsupported(
                            "w_hu: only visible ASCII can stand in a request line".to_owned(),
                        ));
                    }
                    health.uri.clone_from(uri);
                    format!("hcuri {uri}")
                }
                Setting::HealthExpr(name) => {
                    return Err(EditError::Unsupported(format!(
                        "w_he={name}: this version cannot change the expression of health checks \
                         while it runs: set hcexpr= in the file and reload; nothing was changed"
                    )));
                }
                Setting::Route(route) => {
                    balancer.members[at].route.clone_from(route);
                    format!("route {route}")
                }
                Setting::Redirect(route) => {
                    balancer.members[at].redirect.clone_from(route);
                    format!("redirect {route}")
                }
                _ => return Err(EditError::Mixed),
            }
        }
    };
    Ok(words)
}

/// Adds a member, disabled, with every key at its default.
fn add(balancer: &mut Balancer, url: &str) -> Result<String, EditError> {
    let fault = |problem: String| EditError::Url {
        balancer: balancer.written().to_owned(),
        url: url.to_owned(),
        problem,
    };
    let mut member = config::member_of_url(url).map_err(fault)?;
    if balancer.members.iter().any(|m| m.url == member.url) {
        return Err(EditError::Duplicate {
            balancer: balancer.written().to_owned(),
            url: member.url,
        });
    }
    if matches!(member.scheme, Scheme::Tcp | Scheme::Udp)
        && balancer.members.iter().all(|m| m.scheme != member.scheme)
    {
        return Err(EditError::Url {
            balancer: balancer.written().to_owned(),
            url: url.to_owned(),
            problem: "no member of this balancer has that scheme".to_owned(),
        });
    }
    if member.scheme == Scheme::Https {
        // Whom to believe is the file's to say.
        member.tls = balancer.members.iter().find_map(|m| m.tls);
        if member.tls.is_none() {
            return Err(EditError::Url {
                balancer: balancer.written().to_owned(),
                url: url.to_owned(),
                problem: "no member of this balancer is https, so nothing says how its \
                          certificate is to be checked: add it to the file and reload"
                    .to_owned(),
            });
        }
    }
    let sticky = balancer.sticky.as_ref().or(balancer.manage.sticky.as_ref());
    if sticky.is_some_and(|sticky| sticky.cookie_written) {
        // By the name that its other members' were made of.
        member.route = config::stable_route(balancer.written(), &member.url);
    }
    member.status = MemberState::DISABLED;
    let words = format!("{} added, disabled", member.url);
    balancer.members.push(member);
    balancer.manage.added += 1;
    Ok(words)
}

/// `lbmethod` as the configuration writes it.
pub fn name_of(method: LbMethod) -> &'static str {
    LBMETHODS
        .iter()
        .find(|(_, known)| *known == method)
        .map_or("", |(name, _)| name)
}

/// `hcmethod` as httpd's manager writes it.
pub fn check_name(check: Option<Check>) -> &'static str {
    CHECKS
        .iter()
        .find(|(_, known)| *known == check)
        .map_or("", |(name, _)| name)
}
