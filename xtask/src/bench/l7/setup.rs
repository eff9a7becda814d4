//! What all peers are set up to do alike: members, workers, and what is done with a request. A row
//! names one of these, or several of which the first is what the others are measured against.

/// What all peers of a row are set up to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Setup {
    /// What tells it from the others of its row; for tables.
    pub(super) label: &'static str,
    /// Members behind each peer.
    pub(super) members: usize,
    /// sluice's shards, nginx' workers, HAProxy's threads.
    pub(super) workers: u32,
    /// What is done with a request.
    pub(super) work: Work,
}

/// What is done with a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Work {
    /// All go to the members by equal turns, with forwarding fields.
    Pass,
    /// The same, and a line each in the common format.
    Log,
    /// Virtual hosts (`h0.bench.test` and so on) of so many `ProxyPass` (`/p0/` and so on) each, or
    /// one of one, which is `/`.
    Hosts { hosts: u32, passes: u32 },
    /// What the guide's configuration (examples/load-balancer.conf) does with a small request:
    /// weights and a hot standby, sessions by cookie and path, fields of both directions edited, who
    /// may come by address, the combined log, more routes than one.
    Guide,
}

/// Paths below which members have the small body, `/p0` and so on.
pub(super) const PATHS: u32 = 100;
/// Virtual hosts of the row that has many.
pub(super) const HOSTS: u32 = 1000;
/// The guide's routes, in the order of the members: the last is the hot standby's.
pub(super) const ROUTES: [&str; 3] = ["node1", "node2", "node3"];
/// The guide's `loadfactor` of the two members that are no standby.
pub(super) const FACTORS: [u32; 2] = [5, 1];
/// The guide's cookie.
pub(super) const COOKIE: &str = "JSESSIONID";

const PASS: Setup = Setup {
    label: "3 members",
    members: 3,
    workers: 1,
    work: Work::Pass,
};

/// Of most rows.
pub(super) const PLAIN: [Setup; 1] = [PASS];
/// The same with an access log.
pub(super) const LOGGED: [Setup; 1] = [Setup {
    work: Work::Log,
    ..PASS
}];
/// The guide's features.
pub(super) const GUIDE: [Setup; 1] = [Setup {
    work: Work::Guide,
    ..PASS
}];
/// More and more members, one shard.
pub(super) const ELECTION: [Setup; 3] = members(1);
/// The same with two shards, which share the members' state.
pub(super) const ELECTION_SHARED: [Setup; 3] = members(2);
/// One route, then very many.
pub(super) const MANY_HOSTS: [Setup; 2] = [
    Setup {
        label: "1 host x 1 ProxyPass",
        work: Work::Hosts {
            hosts: 1,
            passes: 1,
        },
        ..PASS
    },
    Setup {
        label: "1000 hosts x 100 ProxyPass",
        work: Work::Hosts {
            hosts: HOSTS,
            passes: PATHS,
        },
        ..PASS
    },
];

const fn members(workers: u32) -> [Setup; 3] {
    [
        Setup { workers, ..PASS },
        Setup {
            label: "50 members",
            members: 50,
            workers,
            ..PASS
        },
        Setup {
            label: "500 members",
            members: 500,
            workers,
            ..PASS
        },
    ]
}

impl Setup {
    /// Whether there is an access log to check.
    pub(super) const fn is_logged(&self) -> bool {
        matches!(self.work, Work::Log | Work::Guide)
    }

    /// Idle connections to members that each worker of nginx may keep (the others have no limit):
    /// more than it could need, for a connection that is not kept costs more than all else here.
    pub(super) fn kept(&self) -> usize {
        256.max(4 * self.members)
    }
}

/// The name of a virtual host.
pub(super) fn host(number: u32) -> String {
    format!("h{number}.bench.test")
}
