//! A request on its way through the rules, as templates and expressions ask for it.

use std::{borrow::Cow, net::IpAddr};

use super::{Request, Run};
use crate::{
    expr::{Facts, Moment, Table, Variable},
    pattern::Captures,
    rewrite::template::{Name, Values},
};

impl<R: Request> Values for Run<'_, R> {
    fn rule(&self) -> Option<&(Vec<u8>, Captures)> {
        self.rule.as_ref()
    }

    fn condition(&self) -> Option<&(Vec<u8>, Captures)> {
        self.condition.as_ref()
    }

    fn named(&self, name: &Name) -> Cow<'_, [u8]> {
        if let Some((table, entry)) = name.entry() {
            return self
                .request
                .entry(table, entry.as_bytes())
                .unwrap_or_default();
        }
        match name {
            Name::Filename => Cow::Borrowed(&self.uri),
            Name::ServerAddress => Cow::Owned(self.request.server_address().into_bytes()),
            Name::Variable(Variable::Constant(text)) => Cow::Borrowed(text.as_bytes()),
            Name::Variable(Variable::Time(part)) => Cow::Owned(self.now().part(*part).into_bytes()),
            Name::Variable(Variable::Field(name)) => self
                .request
                .entry(Table::Request, name.as_bytes())
                .unwrap_or_default(),
            Name::Variable(variable) => self.variable(variable).unwrap_or_default(),
            Name::Environment(_) | Name::Field(_) | Name::Unknown(_) => Cow::Borrowed(&[]),
        }
    }

    fn look_up(&self, file: usize, key: &[u8]) -> Option<Vec<u8>> {
        self.request.look_up(file, key)
    }
}

/// The request as the rules have changed it so far, for expressions.
impl<R: Request> Facts for Run<'_, R> {
    fn variable(&self, variable: &Variable) -> Option<Cow<'_, [u8]>> {
        match variable {
            Variable::Query => self.query.as_deref().map(Cow::Borrowed),
            Variable::Filename => Some(Cow::Borrowed(&self.uri)),
            variable => self.request.variable(variable),
        }
    }

    fn entry(&self, table: Table, name: &[u8]) -> Option<Cow<'_, [u8]>> {
        self.request.entry(table, name)
    }

    fn remote(&self) -> Option<IpAddr> {
        self.request.remote()
    }

    fn now(&self) -> Moment {
        self.request.now()
    }
}
