//! One id for several commands with different homes. Of those that share an account at most one is carried out; those
//! that share none may all be. Nothing is left in flight, half done, or reported as damage.
//!
//! It knows §7 and §10 of the contract ("One id, one command, wherever it is used"), and nothing of claims.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use statehouse_tests::cluster::release;
use statehouse_tests::hold::{eventually, hold};
use statehouse_tests::host::{Host, Start, argument, cli};
use statehouse_tests::http::{Answer, Client};
use statehouse_tests::wallet;
use tempfile::tempdir;
use uuid::Uuid;

const PARTITIONS: usize = 4;
const OPENING: i128 = 10_000;
/// The amount that each transfer moves.
const MOVED: i128 = 100;
const PROTOCOLS: [&str; 2] = ["saga", "tcc"];
const RACES: usize = 10;
const ATTEMPTS_MAX: usize = 200;
const PAUSE: Duration = Duration::from_millis(20);

async fn start(data: &Path) -> Host {
    let arguments = vec!["--partitions".to_owned(), PARTITIONS.to_string()];
    Host::start_with(&Start { arguments, ..Start::on(data) }).await.expect("the host starts")
}

/// Two accounts in each partition, each with the opening amount.
struct Accounts(Vec<[String; 2]>);

impl Accounts {
    async fn open(client: &mut Client) -> Self {
        let mut found: Vec<Vec<String>> = vec![Vec::new(); PARTITIONS];
        for number in 0.. {
            if found.iter().all(|accounts| accounts.len() == 2) {
                break;
            }
            let account = format!("account-{number}");
            wallet::open(client, &account).await;
            let position = wallet::account(client, &account).await.text("position");
            let partition: usize = position.split('.').next().and_then(|text| text.parse().ok()).expect("a position");
            if found[partition].len() < 2 {
                wallet::deposit(client, &account, OPENING).await;
                found[partition].push(account);
            }
        }
        Self(found.into_iter().map(|accounts| accounts.try_into().expect("two of each")).collect())
    }

    /// The first account of a partition.
    fn of(&self, partition: usize) -> &str {
        &self.0[partition][0]
    }

    /// The other account of a partition.
    fn other_of(&self, partition: usize) -> &str {
        &self.0[partition][1]
    }

    async fn balances(&self, client: &mut Client) -> Vec<i128> {
        let mut balances = Vec::new();
        for account in self.0.iter().flatten() {
            balances.push(wallet::balance(client, account).await);
        }
        balances
    }
}

/// Sends a transfer until the answer is definite.
async fn transfer(client: &mut Client, id: Uuid, from: &str, to: &str, by: &str) -> Answer {
    let mut body = wallet::transfer_body(&id.to_string(), from, to, &wallet::amount(MOVED));
    body["coordination"] = Value::from(by);
    for _ in 0..ATTEMPTS_MAX {
        let answer = client.post(wallet::TRANSFER, &body).await.expect("the host answers");
        if ![503, 504].contains(&answer.status) {
            return answer;
        }
        hold(PAUSE).await;
    }
    panic!("transfer {id} from {from} to {to} has no definite answer")
}

async fn shown(client: &mut Client, id: Uuid, home: Option<&str>) -> Answer {
    let home = home.map(|home| format!("?home={home}")).unwrap_or_default();
    client.get(&format!("/v1/wallet/transactions/{id}{home}")).await.expect("the host answers")
}

async fn nothing_is_in_flight(client: &mut Client) {
    eventually("everything is over", async || {
        let listed = client.get("/v1/wallet/commands?state=in_flight").await.ok()?;
        (listed.json()["items"] == Value::Array(Vec::new())).then_some(())
    })
    .await;
}

fn is_reused(answer: &Answer, field: &str) {
    assert_eq!((answer.status, answer.problem().as_str()), (422, "id_reused"), "{answer:?}");
    let fields = answer.json()["fields"].as_array().cloned().unwrap_or_default();
    assert!(fields.iter().any(|name| name == field), "it names `{field}`: {answer:?}");
}

/// Exit code and report of `audit verify`.
fn verify(data: &Path) -> (Option<i32>, Value) {
    let verified = cli(["audit", "verify", "--data", argument(data), "--json"]);
    let report = serde_json::from_str(&verified.stdout);
    (verified.code, report.unwrap_or_else(|error| panic!("{error}: {verified:?}")))
}

/// The payer of the second command has its money back, whichever came first, and sees nothing of the other's success.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_payers_with_one_id_one_pays() {
    let data = tempdir().expect("a temporary folder");
    let mut host = start(data.path()).await;
    let mut client = host.client();
    let accounts = Accounts::open(&mut client).await;
    let before = accounts.balances(&mut client).await;
    let mut refused = Vec::new();
    for by in PROTOCOLS {
        let id = Uuid::new_v4();
        let (first, second, payee) = (accounts.of(0), accounts.of(1), accounts.of(2));
        let paid = transfer(&mut client, id, first, payee, by).await;
        assert_eq!(paid.status, 200, "{by}: {paid:?}");
        // While a command is the only one under its id, its caller is shown the command and its home.
        let only = shown(&mut client, id, None).await;
        let location = format!("/v1/wallet/transactions/{id}?home={first}");
        assert_eq!((only.status, only.header("content-location")), (200, Some(location.as_str())), "{by}: {only:?}");
        is_reused(&transfer(&mut client, id, second, payee, by).await, "from_account");
        // A third command within the payee's partition is refused as well, and so is one that the payee pays.
        is_reused(&transfer(&mut client, id, accounts.other_of(2), payee, by).await, "from_account");
        is_reused(&transfer(&mut client, id, payee, accounts.of(3), by).await, "to_account");

        let ambiguous = shown(&mut client, id, None).await;
        assert_eq!((ambiguous.status, ambiguous.problem().as_str()), (409, "id_ambiguous"), "{by}: {ambiguous:?}");
        let mut homes = ambiguous.json()["homes"].as_array().cloned().unwrap_or_default();
        homes.sort_by_key(|home| home.as_str().map(str::to_owned));
        let mut expected = [first, second].map(Value::from);
        expected.sort_by_key(|home| home.as_str().map(str::to_owned));
        assert_eq!(homes, expected, "{by}: it says which homes there are");
        let own = shown(&mut client, id, Some(first)).await;
        assert_eq!((own.status, own.text("Status").as_str()), (200, "success"), "{by}: {own:?}");
        let own = shown(&mut client, id, Some(second)).await;
        assert_eq!(
            (own.text("Status").as_str(), own.text("code").as_str()),
            ("rejected", "id_reused"),
            "{by}: {own:?}"
        );
        for stranger in [accounts.other_of(0), accounts.other_of(2), payee, accounts.of(3)] {
            let absent = shown(&mut client, id, Some(stranger)).await;
            assert_eq!(absent.status, 404, "{by}: {stranger} has no command under the id: {absent:?}");
        }
        refused.push((id, by));
    }
    nothing_is_in_flight(&mut client).await;
    host.kill();
    host = start(data.path()).await;
    client = host.client();
    for (id, by) in refused {
        let again = transfer(&mut client, id, accounts.of(1), accounts.of(2), by).await;
        assert!(again.is_replayed(), "{by}: the refusal sticks to the id: {again:?}");
        is_reused(&again, "from_account");
    }
    let mut expected = before;
    expected[0] -= 2 * MOVED;
    expected[4] += 2 * MOVED;
    assert_eq!(accounts.balances(&mut client).await, expected);
    host.terminate().await;
    let (code, report) = verify(data.path());
    assert_eq!((code, &report["is_clean"], &report["finding_count"]), (Some(0), &Value::from(true), &Value::from(0)));
}

/// No matter which command is first where it matters, at most one is carried out, and each is answered.
#[tokio::test(flavor = "multi_thread")]
async fn of_racers_with_one_id_and_several_homes_at_most_one_pays() {
    let data = tempdir().expect("a temporary folder");
    let host = start(data.path()).await;
    let mut client = host.client();
    let accounts = Accounts::open(&mut client).await;
    let sum = async |client: &mut Client| accounts.balances(client).await.iter().sum::<i128>();
    let before = sum(&mut client).await;
    // The races are: a shared payee; two that pay each other; a ring.
    let pairs: [&[(usize, usize)]; 3] = [&[(0, 2), (1, 2), (3, 2)], &[(0, 1), (1, 0)], &[(0, 1), (1, 2), (2, 0)]];
    let mut paid = 0;
    for (race, by) in (0..RACES).zip(PROTOCOLS.into_iter().cycle()) {
        for pair in pairs {
            let id = Uuid::new_v4();
            let racing = pair.iter().map(|(from, to)| {
                let (mut client, from, to) =
                    (host.client(), accounts.of(*from).to_owned(), accounts.of(*to).to_owned());
                tokio::spawn(async move { transfer(&mut client, id, &from, &to, by).await })
            });
            let mut answers = Vec::new();
            for racing in racing.collect::<Vec<_>>() {
                answers.push(racing.await.expect("racers do not panic"));
            }
            let done = answers.iter().filter(|answer| answer.status == 200).count();
            assert!(done <= 1, "race {race} by {by}: {answers:#?}");
            answers.iter().filter(|answer| answer.status != 200).for_each(|answer| is_reused(answer, "from_account"));
            paid += done;
        }
    }
    assert!(0 < paid, "some are carried out");
    nothing_is_in_flight(&mut client).await;
    assert_eq!(sum(&mut client).await, before, "the books balance");
    host.terminate().await;
    let (code, report) = verify(data.path());
    assert_eq!((code, &report["finding_count"]), (Some(0), &Value::from(0)), "{report:#}");
    // The same module decides again, with the consequences: which command has the id first is a fact.
    let candidate = release("wallet-1.0.1.wasm");
    let arguments = ["audit", "replay", "--mode", "cumulative", "--candidate", argument(&candidate)];
    let replayed = cli(arguments.into_iter().chain(["--data", argument(data.path())]));
    assert_eq!(replayed.code, Some(0), "{replayed:?}");
}

/// Two commands that share no partition are both carried out, once each, and the auditor says whose doing it is.
#[tokio::test(flavor = "multi_thread")]
async fn what_shares_nothing_is_carried_out_and_found_by_the_audit() {
    let data = tempdir().expect("a temporary folder");
    let host = start(data.path()).await;
    let mut client = host.client();
    let accounts = Accounts::open(&mut client).await;
    let id = Uuid::new_v4();
    for (from, to) in [(0, 1), (2, 3)] {
        let paid = transfer(&mut client, id, accounts.of(from), accounts.of(to), "saga").await;
        assert_eq!((paid.status, paid.is_replayed()), (200, false), "{paid:?}");
    }
    for (from, to) in [(0, 1), (2, 3)] {
        let again = transfer(&mut client, id, accounts.of(from), accounts.of(to), "saga").await;
        assert!(again.status == 200 && again.is_replayed(), "{again:?}");
    }
    let moved = [-MOVED, 0, MOVED, 0, -MOVED, 0, MOVED, 0].map(|moved| OPENING + moved);
    assert_eq!(accounts.balances(&mut client).await, moved);
    let (code, report) = verify(data.path());
    assert_eq!((code, &report["is_clean"], &report["finding_count"]), (Some(3), &Value::from(true), &Value::from(1)));
    let finding = &report["findings"][0];
    assert_eq!((&finding["kind"], &finding["id"]), (&Value::from("id_reused"), &Value::from(id.to_string())));
    assert_eq!(finding["positions"].as_array().map(Vec::len), Some(2), "{finding}");
    let text = cli(["audit", "verify", "--data", argument(data.path())]);
    assert_eq!(text.code, Some(3), "{text:?}");
    for expected in ["FINDING wallet id_reused", "nothing is damaged", "verified: "] {
        assert!(text.stdout.contains(expected), "no `{expected}`: {text:?}");
    }
    assert!(!text.stdout.contains("FAULT") && !text.stdout.contains("NOT verified"), "{text:?}");
    host.terminate().await;
}
