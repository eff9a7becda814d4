//! Maps in this process's memory, for running without a kernel's.

use std::collections::{BTreeMap, HashMap};

use lb_common::{
    abi::{MAX_MEMBERS, MAX_SERVICES},
    capture::Capture,
    deny::PrefixEntry,
    forward::{Forward, MemberCounter},
    limit::ServiceLimits,
    maglev::SLOTS,
    member::{MemberId, MemberName},
    quic::{ServerIdKey, ServerIdValue},
    settings::Settings,
    verdict::{Counter, Reason},
};

use super::{Rest, Row};
use crate::dataplane::{DataplaneError, prefix::PrefixKey};

/// Maps in this process's memory, for running without a kernel's.
pub(super) struct Memory {
    names: Vec<MemberName>,
    limits: Vec<ServiceLimits>,
    settings: Settings,
    prefixes: BTreeMap<PrefixKey, PrefixEntry>,
    forwards: Vec<Forward>,
    server_ids: HashMap<ServerIdKey, ServerIdValue>,
    rings: HashMap<u16, Vec<u16>>,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            names: vec![MemberName::default(); MAX_MEMBERS as usize],
            limits: vec![ServiceLimits::default(); MAX_SERVICES as usize],
            settings: Settings::default(),
            prefixes: BTreeMap::new(),
            forwards: vec![Forward::default(); MAX_SERVICES as usize],
            server_ids: HashMap::new(),
            rings: HashMap::new(),
        }
    }
}

impl Rest for Memory {
    fn name(&self, id: MemberId) -> Result<MemberName, DataplaneError> {
        Ok(self.names.get(id.0 as usize).copied().unwrap_or_default())
    }

    fn set_name(&mut self, id: MemberId, name: &MemberName) -> Result<(), DataplaneError> {
        if let Some(slot) = self.names.get_mut(id.0 as usize) {
            *slot = *name;
        }
        Ok(())
    }

    fn limits(&self, service: u16) -> Result<ServiceLimits, DataplaneError> {
        let limits = self.limits.get(usize::from(service));
        Ok(limits.copied().unwrap_or_default())
    }

    fn set_limits(&mut self, service: u16, limits: &ServiceLimits) -> Result<(), DataplaneError> {
        if let Some(row) = self.limits.get_mut(usize::from(service)) {
            *row = *limits;
        }
        Ok(())
    }

    fn settings(&self) -> Result<Settings, DataplaneError> {
        Ok(self.settings)
    }

    fn set_settings(&mut self, settings: &Settings) -> Result<(), DataplaneError> {
        self.settings = *settings;
        Ok(())
    }

    fn prefixes(&self) -> Result<BTreeMap<PrefixKey, PrefixEntry>, DataplaneError> {
        Ok(self.prefixes.clone())
    }

    fn set_prefix(
        &mut self,
        key: &PrefixKey,
        entry: Option<PrefixEntry>,
    ) -> Result<(), DataplaneError> {
        match entry {
            Some(entry) => self.prefixes.insert(*key, entry),
            None => self.prefixes.remove(key),
        };
        Ok(())
    }

    /// No packet is seen here.
    fn counters(&self, _service: u16) -> Result<Row, DataplaneError> {
        Ok([Counter::default(); Reason::COUNT as usize])
    }

    fn clear_traffic(&mut self, _service: u16) -> Result<(), DataplaneError> {
        Ok(())
    }

    fn forward(&self, service: u16) -> Result<Forward, DataplaneError> {
        let forward = self.forwards.get(usize::from(service));
        Ok(forward.copied().unwrap_or_default())
    }

    fn set_forward(&mut self, service: u16, forward: &Forward) -> Result<(), DataplaneError> {
        if let Some(row) = self.forwards.get_mut(usize::from(service)) {
            *row = *forward;
        }
        Ok(())
    }

    fn server_ids(&self) -> Result<HashMap<ServerIdKey, ServerIdValue>, DataplaneError> {
        Ok(self.server_ids.clone())
    }

    fn set_server_id(
        &mut self,
        key: &ServerIdKey,
        value: Option<ServerIdValue>,
    ) -> Result<(), DataplaneError> {
        match value {
            Some(value) => self.server_ids.insert(*key, value),
            None => self.server_ids.remove(key),
        };
        Ok(())
    }

    fn set_rings(&mut self, rings: &[(u16, &[u16; SLOTS])]) -> (usize, Result<(), DataplaneError>) {
        let copies = rings.iter().map(|(ring, slots)| (*ring, slots.to_vec()));
        self.rings.extend(copies);
        (rings.len(), Ok(()))
    }

    fn remove_ring(&mut self, ring: u16) -> Result<(), DataplaneError> {
        self.rings.remove(&ring);
        Ok(())
    }

    fn ring(&self, ring: u16) -> Result<Option<Vec<u16>>, DataplaneError> {
        Ok(self.rings.get(&ring).cloned())
    }

    fn member_counter(&self, _id: MemberId) -> Result<MemberCounter, DataplaneError> {
        Ok(MemberCounter::default())
    }

    fn set_capture(&mut self, _capture: &Capture) -> Result<(), DataplaneError> {
        Ok(())
    }

    fn clear_member(&mut self, _id: MemberId) -> Result<(), DataplaneError> {
        Ok(())
    }
}
