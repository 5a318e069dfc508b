//! `cluster:`, `node:` and `router:`: what members agree on, and who this one is.

use std::str::FromStr;
use std::time::Duration;

use ringway_node::NodeOptions;
use ringway_topology::ids::NAME_BYTES_MAX;
use ringway_topology::settings::{EPSILON_PPM_DEFAULT, TOKENS_PER_WEIGHT_DEFAULT};
use ringway_topology::{
    Algorithm, ClusterName, ClusterSettings, NameError, NodeId, Ownership, PartitionCount, REPLICAS_MAX,
    Weight, ZoneName,
};

use super::routing;
use crate::problem::echo;
use crate::section::{Field, Section};
use crate::settings::{NodeSettings, RouterSettings};

/// Q when nothing is said: good to 64 nodes.
pub(super) const PARTITIONS_DEFAULT: u32 = 16_384;
/// Zone of a node that names none.
const ZONE_DEFAULT: &str = "default";
/// Most nodes one bootstrap list can name.
const BOOTSTRAP_MAX: usize = 1_024;
/// Range of ε, in parts per million: below, caps are so tight that every change moves much; above, they bind nothing.
const EPSILON_PPM_MIN: u64 = 1_000;
const EPSILON_PPM_MAX: u64 = 1_000_000;
/// Most tokens per unit of weight; a node of weight 1,000 would have 4 million.
const TOKENS_PER_WEIGHT_MAX: u64 = 4_096;

const SECOND: Duration = Duration::from_secs(1);

const NAME: &str = "1 to 63 of a-z, 0-9, `.` and `-`, starting and ending with a letter or digit";
const MUST_AGREE: &str = "members compare this setting when they meet and refuse each other when it differs";

/// What must agree; `None` when a required setting is missing or wrong.
pub(super) fn settings(root: &Section<'_>) -> Option<ClusterSettings> {
    let keys =
        ["name", "partitions", "replicas", "hash_seed", "epsilon_ppm", "placement", "tokens", "ownership"];
    let section = root.required_section("cluster", &keys, "a member of no cluster can talk to nobody")?;
    let name: Option<ClusterName> = section
        .required("name", NAME, "members of another cluster are refused by this name")
        .and_then(|field| name(&field, "members of another cluster are refused by this name"));
    let partitions = partitions(&section);
    let mut replicas = 0u8;
    if section.required("replicas", "a whole number from 1 to 7", MUST_AGREE).is_some() {
        section.count("replicas", &mut replicas, 1..=REPLICAS_MAX as u64, MUST_AGREE);
    }
    let mut hash_seed = 0u64;
    section.count("hash_seed", &mut hash_seed, 0..=u64::MAX, MUST_AGREE);
    let mut epsilon_ppm = EPSILON_PPM_DEFAULT;
    section.count(
        "epsilon_ppm",
        &mut epsilon_ppm,
        EPSILON_PPM_MIN..=EPSILON_PPM_MAX,
        "it is how much more than its share a node may own, in millionths; members must agree on it",
    );
    let algorithm = algorithm(&section);
    let ownership = ownership(&section);
    Some(ClusterSettings {
        name: name?,
        partitions: partitions?,
        replicas: (replicas > 0).then_some(replicas)?,
        hash_seed,
        epsilon_ppm,
        algorithm,
        ownership: ownership?,
    })
}

fn partitions(section: &Section<'_>) -> Option<PartitionCount> {
    let mut count = PARTITIONS_DEFAULT;
    let because =
        "the number is fixed for the life of the cluster; 256 for each node there will ever be is good";
    section.count("partitions", &mut count, 1..=1 << PartitionCount::LOG2_MAX, because);
    let partitions = PartitionCount::new(count);
    if partitions.is_none() {
        let near = count.next_power_of_two();
        section
            .refuse("partitions", format!("`{count}` is not a power of two"))
            .accepted("a power of two from 1 to 1048576")
            .because("a key's partition is the top bits of its hash")
            .remedy(format!("write {near} or {}", near / 2));
    }
    partitions
}

fn algorithm(section: &Section<'_>) -> Algorithm {
    let because = "it decides who owns what; members must agree on it";
    let tokens = section.choice("placement", &[("balanced", false), ("tokens", true)], because);
    let mut per_weight = TOKENS_PER_WEIGHT_DEFAULT;
    let because = "more tokens spread the load more evenly and make every change of membership dearer";
    section.count("tokens", &mut per_weight, 1..=TOKENS_PER_WEIGHT_MAX, because);
    if tokens == Some(true) {
        return Algorithm::Tokens(per_weight);
    }
    if section.field("tokens").is_some() {
        section
            .refuse("tokens", "is set, and `placement` is not `tokens`")
            .accepted("only with `placement: tokens`")
            .because("balanced placement has no tokens")
            .remedy("take the line out, or write `placement: tokens`");
    }
    Algorithm::Balanced
}

fn ownership(section: &Section<'_>) -> Option<Ownership> {
    let because = "it says whether data moves before a partition changes hands; members must agree on it";
    section.required("ownership", "claimed, derived", because)?;
    let choices = [("claimed", Ownership::Claimed), ("derived", Ownership::Derived)];
    section.choice("ownership", &choices, because)
}

/// Who a router is.
pub(super) fn router(root: &Section<'_>) -> RouterSettings {
    let Some(section) = root.section("router", &["id", "zone"]) else { return RouterSettings::default() };
    RouterSettings {
        id: section.field("id").and_then(|field| name(&field, "it names this router among the members")),
        zone: section
            .field("zone")
            .and_then(|field| name(&field, "`any` reads prefer owners of the same zone")),
    }
}

/// Who a node is; `None` when a required setting is missing or wrong.
pub(super) fn node(root: &Section<'_>) -> Option<NodeSettings> {
    let keys = [
        "id",
        "zone",
        "weight",
        "bootstrap",
        "data_dir",
        "part",
        "ready_wait",
        "replace_after",
        "stop_timeout",
    ];
    let section = root.required_section("node", &keys, "a storage node needs a name and a directory")?;
    let because = "it names the place in the placement, and the data directory belongs to it for good";
    let id: Option<NodeId> = section.required("id", NAME, because).and_then(|field| name(&field, because));
    let zone = match section.field("zone") {
        None => ZoneName::new(ZONE_DEFAULT).ok(),
        Some(field) => name(&field, "replicas of a partition are put into different zones"),
    };
    let weight = weight(&section);
    let bootstrap = bootstrap(&section);
    let data_dir = section
        .required("data_dir", "a directory", "a store needs a place for its data")
        .and_then(|field| field.text())
        .map(Into::into);
    let part = routing::part(&section);
    let mut ready_wait = NodeOptions::default().ready_wait;
    let because = "a request that comes before the node knows the map waits this long, then 503";
    section.time("ready_wait", &mut ready_wait, Duration::ZERO..=Duration::from_secs(60), because);
    let mut replace_after = NodeSettings::REPLACE_AFTER_DEFAULT;
    let because = "a node that is away for longer is replaced by copying its partitions; shorter copies for every reboot, longer leaves the other copies alone for longer";
    section.time("replace_after", &mut replace_after, SECOND * 10..=SECOND * 3_600 * 24, because);
    let mut stop_timeout = NodeSettings::STOP_TIMEOUT_DEFAULT;
    let because = "a node that stops hands the partitions it leads to others first; those it could not hand over wait for a takeover";
    section.time("stop_timeout", &mut stop_timeout, Duration::ZERO..=SECOND * 3_600, because);
    Some(NodeSettings {
        id: id?,
        zone: zone?,
        weight,
        bootstrap,
        data_dir: data_dir?,
        part,
        ready_wait,
        replace_after,
        stop_timeout,
    })
}

fn weight(section: &Section<'_>) -> Weight {
    let mut weight = Weight::ONE.get();
    let because = "a node's share of the load is its weight over the sum of all; a weight of 0 would be a drain, which is a command";
    section.count("weight", &mut weight, 1..=Weight::MAX.into(), because);
    Weight::new(weight).unwrap_or(Weight::ONE)
}

fn bootstrap(section: &Section<'_>) -> Vec<NodeId> {
    let items = section.field("bootstrap").map(|field| field.items(BOOTSTRAP_MAX)).unwrap_or_default();
    let mut ids: Vec<NodeId> = Vec::new();
    for item in &items {
        let because = "the cluster is formed when all of these nodes have been seen";
        let Some(id) = name::<NodeId>(item, because) else { continue };
        if ids.contains(&id) {
            refuse_repeated(item, &id);
        } else {
            ids.push(id);
        }
    }
    ids
}

/// A name; one that breaks the rules is answered with the nearest that does not.
fn name<T: FromStr<Err = NameError>>(field: &Field<'_>, because: &str) -> Option<T> {
    let text = field.text()?;
    match text.parse() {
        Ok(name) => Some(name),
        Err(error) => {
            let remedy = match valid_name(text) {
                Some(name) => format!("write for example `{name}`"),
                None => "write a short word".to_owned(),
            };
            field
                .refuse(format!("`{}` is not a name: {}", echo(text), error.problem))
                .accepted(NAME)
                .because(because)
                .remedy(remedy);
            None
        }
    }
}

/// What is left of a text when everything that a name may not hold becomes `-`.
fn valid_name(text: &str) -> Option<String> {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c.to_ascii_lowercase() } else { '-' };
    let name: String = text.chars().take(NAME_BYTES_MAX).map(plain).collect();
    let name = name.trim_matches(['-', '.']);
    (!name.is_empty() && echo(text) == text).then(|| name.to_owned())
}

fn refuse_repeated(item: &Field<'_>, id: &NodeId) {
    item.refuse(format!("`{}` is in the list twice", echo(id.as_str())))
        .accepted("each node once")
        .because("a name that stands twice is often another one misspelt")
        .remedy("take one of them out, or write the name that was meant");
}
