//! Smaller scenarios with the same violation.

/// Goes from `start` to ever smaller parameters for as long as `violates` holds of one of the
/// `smaller` ones, and returns where it ends with what `violates` said there.
///
/// `smaller` lists the candidates in the order in which they are tried, the smallest first.
pub fn shrink<P, R, E>(
    start: P,
    smaller: impl Fn(&P) -> Vec<P>,
    mut violates: impl FnMut(&P) -> Result<Option<R>, E>,
) -> Result<Option<(P, R)>, E> {
    let Some(mut result) = violates(&start)? else {
        return Ok(None);
    };
    let mut at = start;
    'again: loop {
        for candidate in smaller(&at) {
            if let Some(found) = violates(&candidate)? {
                (at, result) = (candidate, found);
                continue 'again;
            }
        }
        return Ok(Some((at, result)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_get_smaller_while_the_violation_remains() {
        let smaller = |&(a, b): &(u32, u32)| {
            let less = [(a > 0).then(|| (a - 1, b)), (b > 0).then(|| (a, b - 1))];
            less.into_iter().flatten().collect()
        };
        let violates = |&(a, b): &(u32, u32)| Ok::<_, ()>((a >= 2 && a + b >= 5).then_some(a * b));
        assert_eq!(shrink((9, 9), smaller, violates), Ok(Some(((2, 3), 6))));
        assert_eq!(shrink((1, 9), smaller, violates), Ok(None));
    }
}
