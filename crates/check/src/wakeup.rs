//! Wakeup trees: the sequences that are still to be explored from one point on.
//!
//! A tree's root is a point of the execution, its branches are ordered, and each leaf is a sequence of
//! operations that starts traces which nothing before it in the order covers. Abdulla, Aronsson,
//! Jonsson, Sagonas: Optimal Dynamic Partial Order Reduction, POPL 2014, section 6.

use crate::access::Accesses;

/// No node.
pub(crate) const NIL: u32 = u32::MAX;

/// One operation of a sequence: whose, and with what effects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) thread: u8,
    pub(crate) accesses: Accesses,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    item: Item,
    child: u32,
    sibling: u32,
}

/// The nodes of all trees.
#[derive(Debug, Default)]
pub(crate) struct Forest {
    nodes: Vec<Node>,
    free: Vec<u32>,
}

enum Fit {
    /// The operation can be the sequence's first: it is the one at this place.
    First(usize),
    /// The sequence does not have it, and commutes with it.
    Beside,
    /// Neither.
    No,
}

impl Forest {
    /// Takes the first branch off a level: its item, what is below it, and the branches after it.
    pub(crate) fn take(&mut self, first: u32) -> (Item, u32, u32) {
        let node = self.nodes[first as usize];
        self.free.push(first);
        (node.item, node.child, node.sibling)
    }

    /// Adds a sequence to the tree whose first level starts at `root`, unless the tree already has a
    /// leaf that starts with it or that it starts with. Returns the new first level, and whether
    /// anything was added.
    pub(crate) fn insert(&mut self, root: u32, rest: &mut Vec<Item>) -> (u32, bool) {
        let mut root = root;
        let mut parent = NIL;
        let mut level = root;
        let mut from = 0;
        'deeper: loop {
            let (mut node, mut last) = (level, NIL);
            while node != NIL {
                let Node {
                    item,
                    child,
                    sibling,
                } = self.nodes[node as usize];
                match fit(&item, &rest[from..]) {
                    Fit::No => (last, node) = (node, sibling),
                    fit => {
                        from += drop_first(rest, from, &fit);
                        if child == NIL {
                            return (root, false);
                        }
                        (parent, level) = (node, child);
                        continue 'deeper;
                    }
                }
            }
            let chain = self.chain(&rest[from..]);
            if last != NIL {
                self.nodes[last as usize].sibling = chain;
            } else if parent != NIL {
                self.nodes[parent as usize].child = chain;
            } else {
                root = chain;
            }
            return (root, chain != NIL);
        }
    }

    fn chain(&mut self, items: &[Item]) -> u32 {
        let mut below = NIL;
        for &item in items.iter().rev() {
            let node = Node {
                item,
                child: below,
                sibling: NIL,
            };
            below = match self.free.pop() {
                Some(slot) => {
                    self.nodes[slot as usize] = node;
                    slot
                }
                None => {
                    self.nodes.push(node);
                    self.nodes.len() as u32 - 1
                }
            };
        }
        below
    }
}

/// Removes the operation that fitted, and returns how far the start has moved.
fn drop_first(rest: &mut Vec<Item>, from: usize, fit: &Fit) -> usize {
    match fit {
        Fit::First(0) => 1,
        Fit::First(at) => {
            rest.remove(from + at);
            0
        }
        _ => 0,
    }
}

/// Whether an operation can come first in some continuation of the sequence (is a weak initial).
fn fit(item: &Item, rest: &[Item]) -> Fit {
    for (at, other) in rest.iter().enumerate() {
        if other.thread == item.thread {
            return Fit::First(at);
        }
        if other.accesses.conflict(&item.accesses) {
            return Fit::No;
        }
    }
    Fit::Beside
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{Access, Class, NOTHING};

    fn item(thread: u8, object: u32) -> Item {
        let first = Access {
            object,
            class: Class::Exclusive,
        };
        Item {
            thread,
            accesses: Accesses {
                first,
                signal: NOTHING,
            },
        }
    }

    fn walk(forest: &Forest, level: u32) -> String {
        let mut out = String::new();
        let mut node = level;
        while node != NIL {
            let n = forest.nodes[node as usize];
            out += &format!("{}", n.item.thread);
            if n.child != NIL {
                out += &format!("({})", walk(forest, n.child));
            }
            node = n.sibling;
        }
        out
    }

    #[test]
    fn a_sequence_that_a_leaf_covers_is_not_added() {
        let mut forest = Forest::default();
        let (root, added) = forest.insert(NIL, &mut vec![item(1, 1), item(2, 2)]);
        assert!(added);
        // The same two operations in the other order are the same trace.
        let (root, added) = forest.insert(root, &mut vec![item(2, 2), item(1, 1)]);
        assert!(!added);
        // On one object they are not.
        let (root, added) = forest.insert(root, &mut vec![item(2, 1), item(1, 1)]);
        assert!(added);
        assert_eq!(walk(&forest, root), "1(2)2(1)");
    }

    #[test]
    fn a_branch_is_added_where_it_leaves_the_tree() {
        let mut forest = Forest::default();
        let (root, _) = forest.insert(NIL, &mut vec![item(1, 1), item(2, 9), item(3, 9)]);
        let (root, added) = forest.insert(root, &mut vec![item(3, 9), item(1, 1), item(2, 9)]);
        assert!(added);
        assert_eq!(walk(&forest, root), "1(2(3)3(2))");
        let (_, below, next) = forest.take(root);
        assert_eq!((walk(&forest, below).as_str(), next), ("2(3)3(2)", NIL));
        assert_eq!(forest.free, [root]);
    }
}
