//! What network drivers say and are told, by the ethtool ioctl: features, queues, the driver's name.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

const ETHTOOL_GDRVINFO: u32 = 0x0000_0003;
const ETHTOOL_GSTRINGS: u32 = 0x0000_001b;
const ETHTOOL_GSSET_INFO: u32 = 0x0000_0037;
const ETHTOOL_GFEATURES: u32 = 0x0000_003a;
const ETHTOOL_SFEATURES: u32 = 0x0000_003b;
const ETHTOOL_GCHANNELS: u32 = 0x0000_003c;
/// Names of features, among the sets of strings that a driver has.
const ETH_SS_FEATURES: u32 = 4;
/// Bytes of such a name, with its terminator.
const ETH_GSTRING_LEN: usize = 32;
/// More features than any kernel has: what is beyond is not believed.
const MOST_FEATURES: usize = 1024;

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
struct EthtoolChannels {
    command: u32,
    maxima: [u32; 4],
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

/// `struct ethtool_drvinfo`: 196 bytes, of which the driver's name is wanted.
#[repr(C)]
struct EthtoolDriver {
    command: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

/// An ethtool request on an interface of this network namespace: a structure of the size that its
/// command names.
fn ethtool<T>(interface: &str, request: &mut T) -> io::Result<()> {
    // SAFETY: a structure of the command's, alive until the call returns.
    unsafe { ask(interface, std::ptr::from_mut(request).cast()) }
}

/// As [`ethtool`], of a request as long as the counts in it say.
fn ethtool_words(interface: &str, request: &mut [u64]) -> io::Result<()> {
    // SAFETY: the callers below make it as long as the counts that they write into it.
    unsafe { ask(interface, request.as_mut_ptr().cast()) }
}

/// # Safety
/// `request` is alive, writable, and as large as its command and counts say.
unsafe fn ask(interface: &str, request: *mut libc::c_char) -> io::Result<()> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    // SAFETY: an all-zero `ifreq` is a value.
    let mut ifreq: libc::ifreq = unsafe { std::mem::zeroed() };
    let name = interface.as_bytes();
    if name.len() >= ifreq.ifr_name.len() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    for (to, from) in ifreq.ifr_name.iter_mut().zip(name) {
        *to = from.cast_signed() as libc::c_char;
    }
    ifreq.ifr_ifru.ifru_data = request;
    // SAFETY: the name is terminated (the rest of `ifr_name` is zero) and `ifru_data` points to a
    // request of the size that its command names, alive until the call returns.
    let done = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCETHTOOL, &mut ifreq) };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// One thing that a network interface can do by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::dataplane) struct Feature {
    /// As `ethtool -k` has it: `rx-lro`.
    pub(in crate::dataplane) name: String,
    /// It does it.
    pub(in crate::dataplane) on: bool,
    /// It can be told to begin and to end.
    pub(in crate::dataplane) changeable: bool,
    /// Its bit.
    bit: usize,
}

/// Two 32-bit words as the kernel has them in memory.
const fn pair(first: u32, second: u32) -> u64 {
    let ([a, b, c, d], [e, f, g, h]) = (first.to_ne_bytes(), second.to_ne_bytes());
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

/// 32-bit words of a request.
fn words(request: &[u64]) -> Vec<u32> {
    (request.iter().flat_map(|word| word.to_ne_bytes()))
        .collect::<Vec<u8>>()
        .chunks_exact(4)
        .map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]))
        .collect()
}

/// What an interface can do by itself, and does.
pub(in crate::dataplane) fn features(interface: &str) -> io::Result<Vec<Feature>> {
    // Command and padding, mask of sets, count.
    let mut info = [pair(ETHTOOL_GSSET_INFO, 0), 1 << ETH_SS_FEATURES, 0];
    ethtool_words(interface, &mut info)?;
    let count = words(&info)[4] as usize;
    if count == 0 || count > MOST_FEATURES {
        return Err(io::Error::from(io::ErrorKind::Unsupported));
    }
    // Command, set, count, and the names, which begin 12 bytes in.
    let mut strings = vec![0u64; (12 + count * ETH_GSTRING_LEN).div_ceil(8)];
    strings[0] = pair(ETHTOOL_GSTRINGS, ETH_SS_FEATURES);
    strings[1] = pair(count as u32, 0);
    ethtool_words(interface, &mut strings)?;
    let bytes: Vec<u8> = strings.iter().flat_map(|word| word.to_ne_bytes()).collect();
    // Command, blocks, and of each block four words: changeable, wanted, on, never changed.
    let blocks = count.div_ceil(32);
    let mut state = vec![0u64; 1 + blocks * 2];
    state[0] = pair(ETHTOOL_GFEATURES, blocks as u32);
    ethtool_words(interface, &mut state)?;
    let state = words(&state);
    let has = |bit: usize, word: usize| state[2 + bit / 32 * 4 + word] >> (bit % 32) & 1 == 1;
    Ok((bytes[12..].chunks_exact(ETH_GSTRING_LEN).take(count))
        .enumerate()
        .map(|(bit, name)| {
            let name = name.split(|b| *b == 0).next().unwrap_or_default();
            Feature {
                name: String::from_utf8_lossy(name).into_owned(),
                on: has(bit, 2),
                changeable: has(bit, 0) && !has(bit, 3),
                bit,
            }
        })
        .collect())
}

/// Tells an interface to do, or no longer to do, these of its `all` features. The driver may refuse
/// some without an error: who must know looks again.
pub(in crate::dataplane) fn set_features(
    interface: &str,
    all: &[Feature],
    these: &[&Feature],
    on: bool,
) -> io::Result<()> {
    // Command, blocks, and of each block two words: which, and how they are to be.
    let blocks = all.len().div_ceil(32);
    let mut request = vec![0u64; 1 + blocks];
    request[0] = pair(ETHTOOL_SFEATURES, blocks as u32);
    for feature in these {
        let (block, bit) = (1 + feature.bit / 32, 1u32 << (feature.bit % 32));
        let Some(word) = request.get_mut(block) else {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        };
        *word |= pair(bit, if on { bit } else { 0 });
    }
    ethtool_words(interface, &mut request)
}

/// Receive queues of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::dataplane) struct Channels {
    /// In use, those that are combined with a send queue included.
    pub(in crate::dataplane) rx: u32,
    /// As many as there can be.
    pub(in crate::dataplane) most: u32,
    /// They are combined with send queues.
    pub(in crate::dataplane) combined: bool,
}

/// Receive queues of an interface whose driver tells.
pub(in crate::dataplane) fn channels(interface: &str) -> io::Result<Channels> {
    let mut channels = EthtoolChannels {
        command: ETHTOOL_GCHANNELS,
        ..EthtoolChannels::default()
    };
    ethtool(interface, &mut channels)?;
    // In the order of the fields below them: rx, tx, other, combined.
    let [rx, _, _, combined] = channels.maxima;
    Ok(Channels {
        rx: channels.rx + channels.combined,
        most: rx.max(combined),
        combined: combined > 0,
    })
}

/// Name of an interface's driver.
pub(in crate::dataplane) fn driver(interface: &str) -> io::Result<String> {
    let mut info = EthtoolDriver {
        command: ETHTOOL_GDRVINFO,
        driver: [0; 32],
        rest: [0; 160],
    };
    ethtool(interface, &mut info)?;
    let name = info.driver.split(|b| *b == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(name).into_owned())
}

const _: () = assert!(size_of::<EthtoolDriver>() == 196 && size_of::<EthtoolChannels>() == 36);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_tells_its_features_by_name() {
        let all = features("lo").expect("ethtool");
        let named = |name: &str| all.iter().find(|feature| feature.name == name);
        // Every kernel's loopback can be told to sum or not, and not to be one.
        assert!(named("rx-lro").is_some_and(|f| !f.on), "{all:?}");
        assert!(named("rx-vlan-hw-parse").is_some());
        let loopback = named("loopback").expect("loopback");
        assert!(loopback.on && !loopback.changeable);
    }

    #[test]
    fn interface_that_is_not_there_is_an_error() {
        assert!(features("no-such-if0").is_err());
        assert!(features("name-far-too-long-for-an-interface").is_err());
    }
}
