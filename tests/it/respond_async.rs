//! `Prefer: respond-async`: the command goes its way without the client, who asks later what became of it.
//!
//! It knows the header, the answer 202 and the route of a command's outcome.

use serde_json::json;
use statehouse_tests::hold::eventually;
use statehouse_tests::host::Host;
use statehouse_tests::http::{Answer, Client};
use statehouse_tests::wallet::{self, TRANSFER, transfer_body};
use tempfile::tempdir;
use uuid::Uuid;

async fn outcome(client: &mut Client, location: &str) -> Answer {
    eventually("the command is recorded", async || {
        let answer = client.get(location).await.expect("the host answers");
        assert_eq!(answer.status, 200, "{answer:?}");
        (answer.text("state") == "recorded").then_some(answer)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_nobody_waits_for_can_be_asked_for() {
    let data = tempdir().expect("a temporary folder");
    let host = Host::start(data.path()).await;
    let mut client = host.client();
    for account in ["alice", "bob"] {
        wallet::open(&mut client, account).await;
    }
    wallet::deposit(&mut client, "alice", 10_000).await;
    for (amount, expected) in [("1.00", "done"), ("99999.00", "rejected")] {
        let id = Uuid::new_v4().to_string();
        let body = transfer_body(&id, "alice", "bob", amount);
        let accepted = client.post_with(TRANSFER, &body, vec![("prefer", "respond-async")]).await.expect("it answers");
        assert_eq!(accepted.status, 202, "{accepted:?}");
        assert_eq!(accepted.header("preference-applied"), Some("respond-async"));
        let location = accepted.header("location").expect("it says where to ask").to_owned();
        assert_eq!(location, format!("/v1/wallet/commands/{id}"));
        let answer = outcome(&mut client, &location).await;
        assert_eq!((answer.text("outcome").as_str(), answer.text("id")), (expected, id.clone()), "{answer:?}");
        // Whoever sends it again and waits this time gets the outcome it has.
        let again = client.post(TRANSFER, &body).await.expect("it answers");
        assert!(again.is_replayed(), "{again:?}");
        assert_eq!(again.json()["Transaction_id"], json!(id));
    }
    assert_eq!(wallet::balance(&mut client, "bob").await, 100, "once, however often it was sent");
}
