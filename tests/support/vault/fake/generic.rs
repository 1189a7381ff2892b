//! An engine that Vault does not have (`type: fake`): whatever is written comes back, with a serial number. Its `config`
//! says `{"ttl": …, "max_ttl": …}`: with a ttl every answer is leased. It stands for engines that mint by PUT with params.

use std::time::Duration;

use serde_json::{Value, json};

use super::state::{Answer, Call, Op, Reply, Terms, nothing};
use super::values::span;

#[derive(Default)]
pub struct Generic {
    serial: u64,
    ttl: Duration,
    max: Duration,
}

impl Generic {
    pub fn answer(&mut self, call: &Call<'_>) -> Answer {
        match (call.op, call.path) {
            (Op::Write, "config") => {
                self.ttl = span(call.body, "ttl");
                self.max = span(call.body, "max_ttl");
                Ok(Reply::Empty)
            }
            (Op::Read | Op::Write, path) => {
                self.serial += 1;
                let data = json!({ "path": path, "params": Value::Object(call.body.clone()), "serial": self.serial });
                if self.ttl.is_zero() {
                    return Ok(Reply::Data(data));
                }
                let max = if self.max.is_zero() { call.tuning.max } else { self.max };
                Ok(Reply::Leased(data, Terms { ttl: self.ttl, max, renewable: true }))
            }
            _ => nothing(),
        }
    }
}
