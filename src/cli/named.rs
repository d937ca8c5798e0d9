//! Whom an operator names on the command line.

use crate::adopt::CachedAttachment;
use crate::model::attachment::Attachment;

/// So many characters of a container's id name it, at least.
const LEAST_OF_ID: usize = 4;

/// What has a pod and a container that can be named.
pub(super) trait Named {
    /// The pod's namespace and name; empty: unknown.
    fn pod(&self) -> (&str, &str);
    fn container(&self) -> &str;

    /// Whether the pod's name, or `NAMESPACE/NAME`, is `who`.
    fn pod_is(&self, is: fn(&str, &str) -> bool, who: &str) -> bool {
        let (namespace, name) = self.pod();
        !name.is_empty() && (is(name, who) || is(&format!("{namespace}/{name}"), who))
    }
}

impl Named for Attachment {
    fn pod(&self) -> (&str, &str) {
        self.pod.as_ref().map_or(("", ""), |pod| (&pod.namespace, &pod.name))
    }

    fn container(&self) -> &str {
        self.key.container.as_str()
    }
}

impl Named for CachedAttachment {
    fn pod(&self) -> (&str, &str) {
        (self.arg("K8S_POD_NAMESPACE"), self.arg("K8S_POD_NAME"))
    }

    fn container(&self) -> &str {
        self.key.container.as_str()
    }
}

/// Of each of `all`, whether `who` names it. If nobody is called so, those are named whose names
/// begin so.
pub(super) fn named<T: Named>(all: &[&T], who: &str) -> Vec<bool> {
    let by = |is: fn(&str, &str) -> bool| -> Vec<bool> {
        let id = |one: &T| who.len() >= LEAST_OF_ID && one.container().starts_with(who);
        all.iter().map(|one| id(one) || one.pod_is(is, who)).collect()
    };
    let exact = by(|name, who| name == who);
    if exact.contains(&true) || who.is_empty() {
        exact
    } else {
        by(|name, who| name.starts_with(who))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct One(&'static str, &'static str);

    impl Named for One {
        fn pod(&self) -> (&str, &str) {
            ("shop", self.0)
        }

        fn container(&self) -> &str {
            self.1
        }
    }

    #[test]
    fn a_whole_name_names_nobody_whose_name_only_begins_so() {
        let all = [One("web", "aaaa11"), One("web-1", "aaaa22"), One("", "bbbb33")];
        let all: Vec<&One> = all.iter().collect();
        for (who, expected) in [
            ("web", [true, false, false]),
            ("shop/web", [true, false, false]),
            ("we", [true, true, false]),
            ("shop/web-", [false, true, false]),
            ("aaaa", [true, true, false]),
            ("aaaa2", [false, true, false]),
            ("bbbb33", [false, false, true]),
            ("bbb", [false; 3]),
            ("shop/", [true, true, false]),
            ("", [false; 3]),
        ] {
            assert_eq!(named(&all, who), expected, "{who}");
        }
    }
}
