//! The login with AWS IAM.

use std::sync::Arc;
use std::time::Duration;

use leasehold::aws_identity::{Credentials, Identity};
use leasehold::config::model::{AwsRegion, Locator, VaultAuth};
use leasehold::store::{Store, StoreErrorKind};
use serde_json::{Value, json};

use crate::vault::fake::counts::Kind;
use crate::world::{World, at, aws};

async fn asking_for(header_value: &str, more: Value) -> (World, Locator) {
    let world = World::new();
    let kv = world.vault().kv(2).await;
    world.vault().put(&kv, "a", json!({"x": "1"})).await;
    world.vault().policy("app", "path \"*\" { capabilities = [\"read\", \"update\"] }").await;
    world.vault().mount("auth/aws", "aws", Value::Null).await;
    let config = json!({"iam_server_id_header_value": header_value});
    world.vault().must("POST", "auth/aws/config/client", config).await;
    let mut role = json!({"auth_type": "iam", "token_policies": ["app"], "token_ttl": "5m", "token_max_ttl": "5m"});
    role.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    world.vault().must("POST", "auth/aws/role/app", role).await;
    (world, at(&format!("{kv}/a")))
}

fn iam(header_value: Option<&str>) -> VaultAuth {
    let (role, header_value) = (Some("app".to_owned()), header_value.map(str::to_owned));
    VaultAuth::AwsIam { mount: "aws".into(), role, header_value, region: None }
}

#[tokio::test(start_paused = true)]
async fn every_login_is_signed_anew_with_the_server_id_and_the_keys_are_told_to_the_mask() {
    let (world, place) = asking_for("vault.test", json!({"fake_access_key": "AKIDEXAMPLE"})).await;
    let store = world.store(iam(Some("vault.test")));
    for logins in 1..=3 {
        store.read(&place).await.unwrap();
        assert_eq!(world.fake().counts().of(Kind::Login), logins);
        // Past the token's end, and past the 15 minutes for which AWS takes a signature.
        tokio::time::sleep(Duration::from_secs(1200)).await;
    }
    let learnt = world.learnt.lock().unwrap().clone();
    let own = aws("AKIDEXAMPLE");
    assert!(learnt.contains(&own.secret_access_key) && learnt.contains(own.session_token.as_ref().unwrap()));
}

#[tokio::test(start_paused = true)]
async fn what_aws_or_the_server_refuse_is_said_with_what_to_do_and_no_key() {
    let gov = Some(AwsRegion::Named("us-gov-west-1".into()));
    for (more, auth, says) in [
        (json!({}), iam(None), "set auth.header_value"),
        (json!({}), iam(Some("another")), "set auth.header_value"),
        (json!({"fake_sts_ahead": 3600}), iam(Some("vault.test")), "mend this machine's time"),
        (json!({"fake_access_key": "AKIDOTHER"}), iam(Some("vault.test")), "look at the credentials"),
        (
            json!({"fake_access_key": "AKIDOTHER"}),
            VaultAuth::AwsIam { mount: "aws".into(), role: Some("none".into()), header_value: None, region: gov },
            "entry for role none",
        ),
    ] {
        let (world, place) = asking_for("vault.test", more).await;
        let refused = world.store(auth).read(&place).await.unwrap_err();
        assert_eq!(refused.kind, StoreErrorKind::Denied);
        assert!(refused.message.contains(says), "{says}: {refused}");
        let own = aws("AKIDEXAMPLE");
        for secret in [&own.secret_access_key, own.session_token.as_ref().unwrap()] {
            assert!(!refused.message.contains(secret.expose_str().unwrap()), "{refused}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn credentials_that_are_over_ask_the_server_nothing() {
    let (mut world, place) = asking_for("", json!({})).await;
    let ends = std::time::SystemTime::from(world.fake().clock().now());
    world.aws = Arc::new(Identity::fixed(Credentials { ends: Some(ends), ..aws("AKIDEXAMPLE") }, None));
    let refused = world.store(iam(None)).read(&place).await.unwrap_err();
    assert!(refused.message.contains("have expired") && refused.message.contains("auth/aws/login"), "{refused}");
    assert_eq!(world.fake().counts().total(), 0);
}
