//! Secrets with their versions and labels, and what each operation sees of them: the truth, or something older.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

pub const ACCOUNT: &str = "123456789012";

/// Label -> version id.
pub type Labels = BTreeMap<String, String>;

#[derive(Clone)]
pub enum Stored {
    Text(String),
    /// As base64.
    Binary(String),
}

#[derive(Clone, Default)]
pub struct Secret {
    pub name: String,
    /// By id, with the time of creation (seconds).
    pub versions: BTreeMap<String, (Stored, f64)>,
    pub labels: Labels,
    /// What DescribeSecret sees, one after another and from the first again, instead of `labels`.
    pub described: Vec<Labels>,
    describes: usize,
    /// What reads see, one after another and from the first again, instead of `labels`.
    pub read: Vec<Labels>,
    reads: usize,
    /// What a region still sees, by its name, instead of all that.
    pub lagging: BTreeMap<String, Labels>,
    /// Seconds since the epoch.
    pub next_rotation: Option<f64>,
    /// When it will be deleted.
    pub deleted: Option<f64>,
    /// What DescribeSecret says beside that.
    pub more: Map<String, Value>,
}

/// An error as Secrets Manager names it: status, code, message.
pub type Failure = (u16, String, String);

pub fn failure(code: &str, message: &str) -> Failure {
    let status = match code {
        "InternalServiceError" => 500,
        _ => 400,
    };
    (status, code.to_owned(), message.to_owned())
}

fn not_found(what: &str) -> Failure {
    failure("ResourceNotFoundException", &format!("Secrets Manager can't find the specified secret{what}."))
}

impl Secret {
    pub fn arn(&self, region: &str) -> String {
        format!("{}-AbCdEf", self.partial_arn(region))
    }

    pub fn partial_arn(&self, region: &str) -> String {
        format!("arn:aws:secretsmanager:{region}:{ACCOUNT}:secret:{}", self.name)
    }

    /// Puts a version at AWSCURRENT.
    pub fn current(&mut self, id: &str, value: Stored, created: f64) {
        self.versions.insert(id.to_owned(), (value, created));
        self.label("AWSCURRENT", id);
    }

    /// Puts a label on a version; AWSCURRENT drags AWSPREVIOUS behind it.
    pub fn label(&mut self, label: &str, id: &str) {
        let before = self.labels.insert(label.to_owned(), id.to_owned());
        if label == "AWSCURRENT"
            && let Some(before) = before.filter(|before| before != id)
        {
            self.labels.insert("AWSPREVIOUS".to_owned(), before);
        }
    }

    pub fn describe(&mut self, region: &str) -> Value {
        let labels = match (self.lagging.get(region), self.described.len()) {
            (Some(lagging), _) => lagging,
            (None, 0) => &self.labels,
            (None, many) => &self.described[self.describes % many],
        };
        self.describes += 1;
        let mut versions: Map<String, Value> = Map::new();
        for (label, id) in labels {
            let of = versions.entry(id).or_insert_with(|| json!([]));
            of.as_array_mut().unwrap().push(label.as_str().into());
        }
        let mut answer = json!({
            "ARN": self.arn(region), "Name": self.name, "VersionIdsToStages": versions, "CreatedDate": 1.7e9,
            "LastChangedDate": 1.7e9,
        });
        if let Some(at) = self.next_rotation {
            (answer["RotationEnabled"], answer["NextRotationDate"]) = (true.into(), at.into());
        }
        self.deleted.into_iter().for_each(|at| answer["DeletedDate"] = at.into());
        answer.as_object_mut().unwrap().extend(self.more.clone());
        answer
    }

    /// GetSecretValue, by the version's id, else by a label.
    pub fn value(&mut self, region: &str, id: Option<&str>, label: Option<&str>) -> Result<Value, Failure> {
        if self.deleted.is_some() {
            let message = "You can't perform this operation on the secret because it was marked for deletion.";
            return Err(failure("InvalidRequestException", message));
        }
        let labels = match (self.lagging.get(region), self.read.len()) {
            (Some(lagging), _) => lagging,
            (None, 0) => &self.labels,
            (None, many) => &self.read[self.reads % many],
        };
        self.reads += 1;
        let label = label.unwrap_or("AWSCURRENT");
        let missing = || not_found(&format!(" value for staging label: {label}"));
        let id = id.or_else(|| labels.get(label).map(String::as_str)).ok_or_else(missing)?;
        let Some((value, created)) = self.versions.get(id) else {
            return Err(not_found(&format!(" value for VersionId: {id}")));
        };
        let carries: Vec<&String> = labels.iter().filter(|(_, of)| *of == id).map(|(label, _)| label).collect();
        let mut answer = json!({
            "ARN": self.arn(region), "Name": self.name, "VersionId": id, "VersionStages": carries, "CreatedDate": created,
        });
        match value {
            Stored::Text(text) => answer["SecretString"] = text.as_str().into(),
            Stored::Binary(base64) => answer["SecretBinary"] = base64.as_str().into(),
        }
        Ok(answer)
    }
}

/// All secrets of a region's server, by name. Every region has the same: they are replicas.
#[derive(Default)]
pub struct Secrets(pub BTreeMap<String, Secret>);

impl Secrets {
    /// By name, ARN or partial ARN.
    pub fn find(&mut self, id: &str, region: &str) -> Result<&mut Secret, Failure> {
        let named = |secret: &Secret| id == secret.arn(region) || id == secret.partial_arn(region);
        let name = match self.0.contains_key(id) {
            true => id.to_owned(),
            false => {
                self.0.values().find(|secret| named(secret)).map(|s| s.name.clone()).ok_or_else(|| not_found(""))?
            }
        };
        self.0.get_mut(&name).ok_or_else(|| not_found(""))
    }
}
