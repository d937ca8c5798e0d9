//! Which pods are of one workload: made from one template.
//!
//! Pods of one template are of the same namespace and have the same labels and annotations, so a
//! value that is a namespace's, a tenant's or a label set's is the same for all of them. If two
//! of them have different values, the values are the pods' own.

/// The letters and digits that Kubernetes makes names of (apimachinery, `util/rand`): no vowels,
/// and nothing that looks like one.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// How many random ones end a pod's name.
const RANDOM: usize = 5;
/// A template's hash is a number of 32 bits, its decimal digits written in the alphabet. Fewer
/// than six digits are one in 40,000.
const HASH: std::ops::RangeInclusive<usize> = 6..=10;
/// Names are at most this long; Kubernetes cuts what comes before the random end, and then the
/// rest is not what it seems.
const LONGEST: usize = 63;

/// A pod as one of a workload's.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Member {
    /// The workload: the same text for all of its pods, and for nobody else.
    pub workload: String,
    /// The pod: two attachments of one pod show nothing.
    pub pod: String,
}

impl Member {
    /// By the name that a ReplicaSet of a Deployment gives its pods: a base, the template's hash,
    /// five random characters. Any other name (a bare one, a StatefulSet's, a DaemonSet's) says
    /// nothing of templates.
    #[must_use]
    pub fn by_name(namespace: &str, name: &str) -> Option<Self> {
        let (replica_set, random) = name.rsplit_once('-')?;
        let (base, hash) = replica_set.rsplit_once('-')?;
        let of_alphabet = |text: &str| text.bytes().all(|byte| ALPHABET.contains(&byte));
        let (digit, letter) = (|b: u8| b.is_ascii_digit(), |b: u8| b.is_ascii_lowercase());
        let is_one = !namespace.is_empty()
            && !base.is_empty()
            && name.len() < LONGEST
            && random.len() == RANDOM
            && of_alphabet(random)
            && HASH.contains(&hash.len())
            && of_alphabet(hash)
            // A word has no digits; a CronJob's stamp has only digits.
            && hash.bytes().any(digit)
            && hash.bytes().any(letter);
        is_one.then(|| Self {
            workload: format!("{namespace}/{replica_set}"),
            pod: format!("{namespace}/{name}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(name: &str) -> Option<String> {
        Member::by_name("shop", name).map(|member| member.workload)
    }

    #[test]
    fn pods_of_one_replica_set_are_of_one_workload() {
        for (name, replica_set) in [
            ("web-7d4f8b9c6f-x2k9z", "shop/web-7d4f8b9c6f"),
            ("coredns-558bd4d5db-bqxpl", "shop/coredns-558bd4d5db"),
            ("my-app-6c8b9-6f4d5b-44444", "shop/my-app-6c8b9-6f4d5b"),
            ("a-58bd44-lllll", "shop/a-58bd44"),
        ] {
            assert_eq!(workload(name).as_deref(), Some(replica_set), "{name}");
        }
        let of = |namespace, name| Member::by_name(namespace, name).unwrap();
        let (one, two) = (of("shop", "web-7d4f8b9c6f-x2k9z"), of("shop", "web-7d4f8b9c6f-x2k9w"));
        assert!(one.workload == two.workload && one.pod != two.pod);
        assert!(one.workload != of("bank", "web-7d4f8b9c6f-x2k9z").workload, "another namespace");
        assert!(one.workload != of("shop", "web-6d4f8b9c6f-x2k9z").workload, "another template");
        assert!(one.workload != of("shop", "app-7d4f8b9c6f-x2k9z").workload, "another Deployment");
    }

    #[test]
    fn other_names_say_nothing() {
        for name in [
            "web",
            "web-0",
            "web-1",
            "db-12345",
            "kube-proxy-x2k9z",
            "node-exporter-x2k9z",
            "ds-generic-x2k9z",
            // A word of the alphabet's letters, a CronJob's stamp, a completion index.
            "sync-hgbrtx-x2k9z",
            "backup-28945675-x2k9z",
            "job-0-x2k9z",
            // Vowels, other digits, other lengths.
            "web-7d4f8b9c6f-x2k9a",
            "web-7d4f8b9c6f-x2k90",
            "web-7d4f8b9c6f-x2k9",
            "web-7d4f8b9c6f-x2k9zz",
            "web-7d4f8b9a6f-x2k9z",
            "web-7d4f1b9c6f-x2k9z",
            "web-7d4f8b9c6fb-x2k9z",
            "web-7d4f8-x2k9z",
            "web-7D4F8B9C6F-x2k9z",
            "-7d4f8b9c6f-x2k9z",
            "7d4f8b9c6f-x2k9z",
            "web-7d4f8b9c6f-",
            "web--x2k9z",
            "",
            "---",
            "wéb-7d4f8b9c6f-x2k9é",
        ] {
            assert_eq!(workload(name), None, "{name}");
        }
        assert_eq!(Member::by_name("", "web-7d4f8b9c6f-x2k9z"), None, "no namespace");
        let long = format!("{}-7d4f8b9c6f-x2k9z", "w".repeat(46));
        assert_eq!((long.len(), workload(&long)), (63, None), "it may have been cut");
    }
}
