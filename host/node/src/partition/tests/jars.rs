//! Three partitions of a machine of jars, native and on one node. A gift is taken in Try and given in Confirm, so the
//! second jar's partition has nothing to try.
//!
//! In: a feature level, and what happens to calls. Out: answers and coins. It does not know what a test is about.

use statehouse_abi::key::key;

use super::*;
use crate::clock::Clock;
use crate::features::FeatureLevel;
use crate::machine::slots::partition_of;
use crate::router::MachineParticipants;
use module::Jars;

const MACHINE: &str = "jars";
const PARTITIONS: u32 = 3;
const COINS: &[u8] = b"coins";
/// Attempts until a command's outcome is known.
const ATTEMPTS_MAX: usize = 200;

mod module {
    use statehouse_guest::borsh::{BorshDeserialize, BorshSerialize};
    use statehouse_guest::*;

    use super::{COINS, MACHINE};

    #[derive(Body)]
    pub struct Gift {
        /// The jar that gives
        #[body(name, max_chars = 64)]
        pub from: String,
        /// The jar that gets
        #[body(max_chars = 64)]
        pub to: String,
        /// Chosen by the client
        pub request_id: Uuid,
    }

    #[derive(Body)]
    pub struct Put {
        /// The jar
        #[body(name, max_chars = 64)]
        pub jar: String,
        /// Chosen by the client
        pub request_id: Uuid,
    }

    #[derive(Commands)]
    pub enum JarCommand {
        /// Moves a coin
        #[command(path = "jars/{from}/gifts", id = "request_id", response = Gift)]
        Give(Gift),
        /// Moves a coin as a Saga, which asks one jar after the other
        #[command(path = "jars/{from}/parcels", id = "request_id", response = Gift)]
        Mail(Gift),
        /// Puts a coin in
        #[command(path = "jars/{jar}/coins", id = "request_id", response = Put)]
        Put(Put),
    }

    #[derive(Rejections)]
    pub enum Empty {
        /// There is no coin in it
        #[rejection(status = 409, detail = "no coin")]
        NoCoin,
    }

    #[derive(BorshSerialize, BorshDeserialize)]
    #[borsh(crate = "statehouse_guest::borsh")]
    pub struct Op(i64);

    #[derive(BorshSerialize, BorshDeserialize)]
    #[borsh(crate = "statehouse_guest::borsh")]
    pub struct Moved(i64);

    pub struct Jars;

    #[module]
    impl Module for Jars {
        const NAME: &'static str = MACHINE;
        const SCHEMA: u32 = 1;

        type Command = JarCommand;
        type Query = NoQueries;
        type Op = Op;
        type Event = Moved;
        type Rejection = Empty;
        type Tally = ();

        fn plan(command: &JarCommand, _: &Caller<'_>, planner: &mut Planner<'_, Op>) -> Result<(), Refusal> {
            match command {
                JarCommand::Give(Gift { from, to, .. }) => {
                    planner.coordination(Coordination::TryConfirmCancel);
                    planner.step(Op(-1), from).key(COINS).undo(Op(1)).tcc(TccRole::Try);
                    planner.step(Op(1), to).key(COINS).tcc(TccRole::Confirm);
                }
                JarCommand::Mail(Gift { from, to, .. }) => {
                    planner.step(Op(-1), from).key(COINS).undo(Op(1));
                    planner.step(Op(1), to).key(COINS).undo(Op(-1));
                }
                JarCommand::Put(Put { jar, .. }) => drop(planner.step(Op(1), jar).key(COINS)),
            }
            Ok(())
        }

        fn validate(Op(coins): &Op, _: &View<'_>, events: &mut Events<'_, Moved>) -> Result<(), Empty> {
            if *coins == 0 {
                return Err(Empty::NoCoin);
            }
            events.emit(Moved(*coins));
            Ok(())
        }

        fn apply(Moved(coins): &Moved, tx: &mut Tx<'_>) {
            let before: i64 = tx.read(COINS).unwrap_or(0);
            tx.write(COINS, &(before + coins));
        }

        fn render_response(_: &Done<'_, Self>) -> Value {
            Value::Map(Vec::new())
        }

        fn render_event(_: &Moved, _: &EventContext<'_, Self>) -> Value {
            Value::Null
        }

        fn render_row(_: &[u8], _: &[u8], _: &[u8]) -> Value {
            Value::Null
        }
    }
}

fn logic() -> Arc<dyn Logic> {
    Arc::new(NativeLogic::<Jars>::new())
}

/// What happens to the calls of a coordinator.
#[derive(Clone, Copy)]
pub enum Calls {
    CarriedOut,
    /// Nobody answers, so what has begun stays in flight.
    Lost,
}

pub struct Cluster {
    pub machine: Arc<Machine>,
    pub partitions: Vec<Arc<Partition>>,
    /// One jar for each partition.
    jars: Vec<String>,
}

impl Cluster {
    pub async fn open(folder: &Path, level: FeatureLevel) -> Self {
        Self::open_with(folder, level, Calls::CarriedOut).await
    }

    pub async fn open_with(folder: &Path, level: FeatureLevel, calls: Calls) -> Self {
        Self::open_at(folder, &Features::at(level), calls, [0, 1, 2].map(|_| Arc::new(SystemClock) as Arc<dyn Clock>))
            .await
    }

    /// Opens with a clock for each partition.
    pub async fn open_at(
        folder: &Path,
        features: &Features,
        calls: Calls,
        clocks: [Arc<dyn Clock>; PARTITIONS as usize],
    ) -> Self {
        let machine = Machine::new(MachineOptions {
            name: MACHINE.to_owned(),
            partition_count: PARTITIONS,
            modules: Arc::new(Only(logic())),
            active: logic(),
            clock: Arc::new(SystemClock),
            node: NodeId(1),
            network: Arc::new(NoNetwork),
            nodes: watch::Sender::new(vec![NodeId(1)]).subscribe(),
            answering: watch::Sender::default().subscribe(),
            features: features.clone(),
        });
        let mut partitions = Vec::new();
        for (id, clock) in (0..PARTITIONS).map(PartitionId).zip(clocks) {
            let partition = Partition::open(PartitionOptions {
                machine: MACHINE.to_owned(),
                clock,
                partition: id,
                folder: folder.join(id.to_string()),
                modules: Arc::new(Only(logic())),
                peers: GroupPeers {
                    network: Arc::new(NoNetwork),
                    group: GroupName::new(MACHINE, id),
                    seen: Arc::new(Nobody),
                },
                participants: match calls {
                    Calls::CarriedOut => Arc::new(MachineParticipants::of(&machine)),
                    Calls::Lost => Arc::new(NoOthers),
                },
                features: features.clone(),
                ..options(folder)
            });
            let partition = partition.await.expect("it opens");
            partition.wait_for_leader(soon()).await.expect("it leads itself");
            if partition.progress().journal.index.0 == 0 {
                let activation = Activation { module: logic().id(), schema: 1, number: 0 };
                partition.activate(activation, soon()).await.expect("it activates");
            }
            drop(machine.set_replica(id, Ok(partition.clone())));
            partitions.push(partition);
        }
        let jar = |partition: u32| {
            let names = (0..).map(|number| format!("jar-{number}"));
            names.into_iter().find(|name| partition_of(name.as_bytes(), PARTITIONS).0 == partition).expect("endless")
        };
        Self { machine, partitions, jars: (0..PARTITIONS).map(jar).collect() }
    }

    pub async fn close(self) {
        for partition in self.partitions {
            partition.close().await.expect("it closes");
        }
    }

    /// Sends the command again until the answer is definite.
    async fn send(&self, id: CommandId, command: &str, body: Value) -> Answer {
        for _ in 0..ATTEMPTS_MAX {
            let request = CommandRequest {
                command: command.into(),
                body: body.to_cbor().expect("no integer over 64 bits"),
                id,
                caller: Arc::new(Caller::unbound("test", role::ALL)),
                request_id: "test".into(),
                deadline: soon(),
            };
            match self.machine.submit(vec![request]).await.pop().expect("one answer") {
                Answer::Unavailable(_) | Answer::Unknown { .. } => tokio::task::yield_now().await,
                definite => return definite,
            }
        }
        panic!("{id} has no definite answer")
    }

    pub async fn give(&self, id: CommandId, from: usize, to: usize) -> Answer {
        self.move_coin(id, "give", from, to).await
    }

    pub async fn mail(&self, id: CommandId, from: usize, to: usize) -> Answer {
        self.move_coin(id, "mail", from, to).await
    }

    async fn move_coin(&self, id: CommandId, command: &str, from: usize, to: usize) -> Answer {
        let id_text = Value::text(id.to_string());
        let body =
            [("from", Value::text(&*self.jars[from])), ("to", Value::text(&*self.jars[to])), ("request_id", id_text)];
        self.send(id, command, Value::map(body)).await
    }

    pub async fn put(&self, id: CommandId, jar: usize) -> Answer {
        let body = [("jar", Value::text(&*self.jars[jar])), ("request_id", Value::text(id.to_string()))];
        self.send(id, "put", Value::map(body)).await
    }

    pub async fn coins(&self) -> Vec<i64> {
        let mut coins = Vec::new();
        for (partition, jar) in self.partitions.iter().zip(&self.jars) {
            let point = partition.read_linearizable(soon()).await.expect("it can be read");
            let row = point.view.row(&key(jar.as_bytes(), COINS)).expect("it can be read");
            coins.push(row.map_or(0, |row| i64::from_le_bytes(row.try_into().expect("eight bytes"))));
        }
        coins
    }

    pub fn in_flight(&self) -> usize {
        self.partitions.iter().map(|partition| partition.list_in_flight().expect("it runs").len()).sum()
    }
}

pub fn id_at(number: u8) -> CommandId {
    CommandId([number; 16])
}
