//! Where each service lies in the set-associative table: ids, seed, sets and ways. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use lb_common::{
    abi::{MAX_SERVICES, SERVICE_SETS, SERVICE_WAYS},
    service::{ServiceWay, flag, service_set},
};

use super::{
    DataplaneError,
    desired::{Image, ServiceKey},
    diff::PlacedWay,
};

/// Where services are to be, against where they are.
#[derive(Debug)]
pub(super) struct Placement {
    /// Seed of the table; kept while everything fits.
    pub(super) seed: u64,
    /// Id of each service; a service that stays keeps its own.
    pub(super) ids: BTreeMap<ServiceKey, u16>,
    /// Ids given out now, whose counters were another's.
    pub(super) new: BTreeSet<u16>,
    /// Ways to be free before the others are written: there is no room for both.
    pub(super) early: Vec<PlacedWay>,
    /// Ways to be free once the settings name the new seed.
    pub(super) obsolete: Vec<PlacedWay>,
    /// Whether services that stay are not to be found for a moment.
    pub(super) gap: bool,
    places: Vec<(ServiceKey, u32, usize)>,
    old: HashMap<(u32, usize), ServiceWay>,
}

/// Seeds tried for a layout that can be written beside the present one.
const DRAWS: usize = 4096;

pub(super) fn place(
    ways: &[PlacedWay],
    seed: u64,
    image: &Image,
    draw: &mut dyn FnMut() -> u64,
) -> Result<Placement, DataplaneError> {
    let capacity = MAX_SERVICES as usize - 1;
    if image.services.len() > capacity {
        return Err(DataplaneError::Capacity {
            what: "services",
            wanted: image.services.len(),
            free: capacity,
            capacity,
            hint: "; use wildcard listeners instead of one per address",
        });
    }
    let (ids, new) = assign_ids(ways, image);
    let (seed, beside) = choose(ways, seed, image, draw)?;
    let old: HashMap<(u32, usize), ServiceWay> =
        ways.iter().map(|w| ((w.set, w.way), w.value)).collect();

    let mut kept: HashSet<(u32, usize)> = HashSet::new();
    let mut places = Vec::with_capacity(image.services.len());
    let mut homeless = Vec::new();
    for key in image.services.keys() {
        let set = set_of(key, seed);
        let there =
            (0..SERVICE_WAYS).find(|way| old.get(&(set, *way)).is_some_and(|v| key_of(v) == *key));
        if let Some(way) = there {
            kept.insert((set, way));
            places.push((*key, set, way));
        } else {
            homeless.push((*key, set));
        }
    }
    let mut early = Vec::new();
    let mut taken: HashSet<(u32, usize)> = if beside {
        old.keys().copied().collect()
    } else {
        // No room for both layouts: what does not stay goes first.
        early = ways
            .iter()
            .filter(|w| !kept.contains(&(w.set, w.way)))
            .copied()
            .collect();
        kept.clone()
    };
    for (key, set) in homeless {
        let free = |taken: &HashSet<(u32, usize)>| {
            (0..SERVICE_WAYS).find(|way| !taken.contains(&(set, *way)))
        };
        let way = free(&taken).expect("the seed was chosen so that every set has room");
        taken.insert((set, way));
        places.push((key, set, way));
    }
    let obsolete = if beside {
        let gone = |w: &&PlacedWay| !kept.contains(&(w.set, w.way));
        ways.iter().filter(gone).copied().collect()
    } else {
        Vec::new()
    };
    let gap = early
        .iter()
        .any(|way| image.services.contains_key(&key_of(&way.value)));
    Ok(Placement {
        seed,
        ids,
        new,
        early,
        obsolete,
        gap,
        places,
        old,
    })
}

impl Placement {
    /// The ways that must be written, told which services have limits.
    pub(super) fn fill(
        &self,
        image: &Image,
        limited: &HashSet<u16>,
        balancers: &HashMap<usize, u16>,
    ) -> impl Iterator<Item = PlacedWay> {
        self.places.iter().filter_map(|(key, set, way)| {
            let id = self.ids[key];
            let service = &image.services[key];
            let balancer = service.balancer.and_then(|index| balancers.get(&index));
            let value = ServiceWay {
                address: key.address,
                port: key.be_port(),
                proto: key.proto,
                kind: service.kind,
                id,
                balancer: balancer.copied().unwrap_or(0),
                flags: service.flags
                    | if limited.contains(&id) {
                        flag::LIMITED
                    } else {
                        0
                    },
                range: key.range(),
            };
            (self.old.get(&(*set, *way)) != Some(&value)).then_some(PlacedWay {
                set: *set,
                way: *way,
                value,
            })
        })
    }
}

/// By what a way is found.
pub(super) const fn key_of(way: &ServiceWay) -> ServiceKey {
    ServiceKey {
        address: way.address,
        port: match way.range {
            [0, 0] => way.port.to_u16(),
            [first, _] => first,
        },
        last: way.range[1],
        proto: way.proto,
    }
}

fn set_of(key: &ServiceKey, seed: u64) -> u32 {
    service_set(key.address, key.be_port(), key.proto, seed)
}

/// A service that stays keeps its id; a new one gets the next above those in use, so that an id is
/// taken up again as late as possible.
fn assign_ids(ways: &[PlacedWay], image: &Image) -> (BTreeMap<ServiceKey, u16>, BTreeSet<u16>) {
    let known: BTreeMap<ServiceKey, u16> = ways
        .iter()
        .map(|w| (key_of(&w.value), w.value.id))
        .collect();
    let mut used: HashSet<u16> = known.values().copied().collect();
    let mut ids = BTreeMap::new();
    let mut new = BTreeSet::new();
    let mut next = used.iter().max().map_or(1, |max| max + 1);
    for key in image.services.keys() {
        let id = match known.get(key) {
            Some(id) => *id,
            None => loop {
                let id = if u32::from(next) < MAX_SERVICES {
                    next
                } else {
                    1
                };
                next = id + 1;
                // Ids of services that go now are taken only when nothing else is left.
                let spent = used.len() >= MAX_SERVICES as usize - 1;
                let leaving = spent
                    && known
                        .iter()
                        .any(|(k, i)| *i == id && !image.services.contains_key(k))
                    && !new.contains(&id);
                if leaving || used.insert(id) {
                    new.insert(id);
                    break id;
                }
            },
        };
        ids.insert(*key, id);
    }
    (ids, new)
}

/// The present seed if everything fits under it, else another; and whether the new layout can be
/// written beside the old one.
fn choose(
    ways: &[PlacedWay],
    seed: u64,
    image: &Image,
    draw: &mut dyn FnMut() -> u64,
) -> Result<(u64, bool), DataplaneError> {
    let mut alone = None;
    let mut candidates = std::iter::once(seed).filter(|seed| *seed != 0);
    for attempt in 0..=DRAWS {
        let candidate = candidates.next().unwrap_or_else(&mut *draw);
        match fit(ways, candidate, image) {
            Fit::Beside => return Ok((candidate, true)),
            // Under the present seed nothing that stays has to move.
            Fit::Alone if attempt == 0 && candidate == seed => return Ok((candidate, false)),
            Fit::Alone if alone.is_none() => alone = Some(candidate),
            Fit::Alone | Fit::No => {}
        }
    }
    alone
        .map(|seed| (seed, false))
        .ok_or(DataplaneError::ServiceTable {
            services: image.services.len(),
            capacity: MAX_SERVICES as usize - 1,
        })
}

enum Fit {
    /// With the old layout still in place.
    Beside,
    /// Once what does not stay has gone.
    Alone,
    No,
}

fn fit(ways: &[PlacedWay], seed: u64, image: &Image) -> Fit {
    let mut wanted = [0usize; SERVICE_SETS as usize];
    let mut both = [0usize; SERVICE_SETS as usize];
    for key in image.services.keys() {
        let set = set_of(key, seed) as usize;
        wanted[set] += 1;
        both[set] += 1;
    }
    if wanted.iter().any(|count| *count > SERVICE_WAYS) {
        return Fit::No;
    }
    let mut seen = HashSet::new();
    for way in ways {
        let key = key_of(&way.value);
        let stays =
            image.services.contains_key(&key) && set_of(&key, seed) == way.set && seen.insert(key);
        if !stays {
            both[way.set as usize] += 1;
        }
    }
    if both.iter().all(|count| *count <= SERVICE_WAYS) {
        Fit::Beside
    } else {
        Fit::Alone
    }
}
