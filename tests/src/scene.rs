//! What most tests begin with: a lab with members a, b, c and sluice in front of them.

use std::net::SocketAddr;

use anyhow::Result;

use crate::{Curl, Lab, LabOptions, Member, Namespace, Sluice, curl, topology};

/// Port that members listen on.
pub const MEMBER_PORT: u16 = 8080;
/// Names and routes of the members, in order.
pub const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// A lab at work. Its parts end in the order in which they are written here.
#[derive(Debug)]
pub struct Scene {
    /// The daemon.
    pub sluice: Sluice,
    /// Members a, b, c ...
    pub members: Vec<Member>,
    /// The client.
    pub curl: Curl,
    /// Where all this is.
    pub lab: Lab,
}

impl Scene {
    /// Three members, one attacker, sluice with this configuration.
    pub fn start(configuration: &str) -> Result<Self> {
        Self::with(LabOptions::default(), configuration)
    }

    /// As many members and attackers as wanted.
    pub fn with(options: LabOptions, configuration: &str) -> Result<Self> {
        let lab = Lab::with(options)?;
        let members = lab
            .members
            .iter()
            .zip(NAMES)
            .zip(0..)
            .map(|((home, name), index)| Member::start(home, name, member_address(index)))
            .collect::<Result<_>>()?;
        let sluice = Sluice::start(&lab, configuration)?;
        let curl = Curl::inside(&lab.client);
        Ok(Self {
            sluice,
            members,
            curl,
            lab,
        })
    }

    /// A URL of the service.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", service())
    }

    /// Which members answer `count` requests in a row, or with which status there was no answer.
    pub fn letters(&self, count: u32) -> Result<String> {
        Ok(curl::letters(&self.curl.series(&self.url("/name"), count)?))
    }

    /// Fails unless `count` requests in a row are answered as `wanted`, as [`Self::letters`] has it.
    pub fn expect(&self, count: u32, wanted: &str) -> Result<()> {
        crate::same(&self.letters(count)?, wanted)
    }

    /// Starts a member again that was killed.
    pub fn revive(&mut self, index: usize) -> Result<()> {
        let home: &Namespace = &self.lab.members[index];
        let address = self.members[index].address();
        self.members[index] = Member::start(home, NAMES[index], address)?;
        Ok(())
    }
}

/// The service's IPv4 address and port.
pub fn service() -> SocketAddr {
    (topology::address(topology::BALANCER), 80).into()
}

/// Address of the member with this number, from 0.
pub fn member_address(index: u8) -> SocketAddr {
    (topology::address(topology::MEMBERS + index), MEMBER_PORT).into()
}

/// A `BalancerMember` line for the member with this number, with further parameters.
pub fn member(index: u8, parameters: &str) -> String {
    let name = NAMES[usize::from(index)];
    format!(
        "    BalancerMember \"http://{}\" route={name} {parameters}\n",
        member_address(index)
    )
}

/// A whole configuration: `balancer` is the inside of `<Proxy balancer://b>`, `ours` that of
/// `<IfModule sluice_module>`, beside the interface.
pub fn site(balancer: &str, ours: &str) -> String {
    site_with(balancer, ours, "")
}

/// As [`site`], with further lines before all else.
pub fn site_with(balancer: &str, ours: &str, first: &str) -> String {
    format!(
        "{first}\n\
         ServerName lab.test\n\
         Listen {}\n\
         Listen [{}]:80\n\
         User nobody\n\
         Group nogroup\n\
         KeepAlive On\n\
         MaxKeepAliveRequests 0\n\
         <Proxy \"balancer://b\">\n{balancer}\n</Proxy>\n\
         ProxyPass \"/\" \"balancer://b/\"\n\
         ProxyPassReverse \"/\" \"balancer://b/\"\n\
         <IfModule sluice_module>\n    XDPInterface eth0\n{ours}\n</IfModule>\n",
        service(),
        topology::address6(topology::BALANCER),
    )
}

/// Members a, b and c, each with these parameters.
pub fn three(parameters: &str) -> String {
    (0..3).map(|index| member(index, parameters)).collect()
}
