//! One SQS queue, as the agent uses it.

use serde_json::{Value, json};

/// Messages in the order they came; what was given to somebody is hidden until [`Queue::again`].
#[derive(Default)]
pub struct Queue {
    messages: Vec<(String, String, bool)>,
    made: usize,
}

impl Queue {
    pub fn send(&mut self, body: String) {
        self.made += 1;
        self.messages.push((format!("handle-{}", self.made), body, false));
    }

    /// What was given and not deleted is given again.
    pub fn again(&mut self) {
        self.messages.iter_mut().for_each(|(_, _, hidden)| *hidden = false);
    }

    pub fn left(&self) -> usize {
        self.messages.len()
    }

    pub fn receive(&mut self) -> Value {
        let given = self.messages.iter_mut().filter(|(_, _, hidden)| !hidden).take(10).map(|(handle, body, hidden)| {
            *hidden = true;
            json!({"MessageId": handle, "ReceiptHandle": handle, "Body": body})
        });
        json!({"Messages": given.collect::<Vec<_>>()})
    }

    pub fn delete(&mut self, request: &Value) -> Value {
        let entries = request["Entries"].as_array().unwrap();
        assert!((1..=10).contains(&entries.len()), "AWS takes 1 to 10: {entries:?}");
        self.messages.retain(|(handle, ..)| entries.iter().all(|entry| entry["ReceiptHandle"] != handle.as_str()));
        let done: Vec<Value> = entries.iter().map(|entry| json!({"Id": entry["Id"]})).collect();
        json!({"Successful": done, "Failed": []})
    }
}
