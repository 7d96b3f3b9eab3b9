//! A router keyed by OKR in standard Rust, written from spec/text, chapters 0 to 7. It answers JSON lines.
//!
//!     rustc -O --edition 2021 router.rs -o router
//!     okr conform "cmd:./router"

mod json;
mod key;

use json::{array, hex, read, Checked, Json};

/// Chapter SCORE, for one token.
fn key_scores(hidden: &[f64], signs: &[&str]) -> Vec<f64> {
    let norm = hidden.iter().map(|h| h * h).sum::<f64>().sqrt();
    // 0 / 0 is NaN (OKR-SCORE-002). f32::EPSILON is no guard: it is 2^-23, and norms may be less (OKR-SCORE-003).
    let norm = if norm == 0.0 { 1.0 } else { norm };
    let mut scores = vec![0.0; signs[0].len()];
    for (h, row) in hidden.iter().zip(signs) {
        for (score, sign) in scores.iter_mut().zip(row.bytes()) {
            *score += if sign == b'+' { h / norm } else { -h / norm };
        }
    }
    scores
}

/// Ranks experts, the largest score first. `sort_by` keeps the order of equals, `sort_unstable_by` and `max_by` do not
/// (OKR-TIE-001). `total_cmp` puts -0 below +0, and adding 0.0 makes them one (OKR-TIE-004).
fn rank(experts: &mut [usize], score: impl Fn(usize) -> f64) {
    experts.sort_by(|&a, &b| (score(b) + 0.0).total_cmp(&(score(a) + 0.0)));
}

/// Chapters ZONE to FAIL, for one token: the experts that run, and whether it was an opportunity.
fn select(c: &[f64], g: &[f64], k: usize, epsilon: f64, boundary: bool, strength: f64) -> (Vec<usize>, bool) {
    let mut order: Vec<usize> = (0..c.len()).collect();
    // Soundness comes first, number by number: f64::max passes a NaN over (OKR-FAIL-001).
    let candidates = c.iter().filter(|&&c| c > f64::NEG_INFINITY).count();
    if candidates < k || !c.iter().all(|&c| c < f64::INFINITY) {
        return (order[..k].to_vec(), false);
    }
    rank(&mut order, |e| c[e]);
    let native = (order[..k].to_vec(), false);
    if !g.iter().all(|g| g.is_finite()) {
        return native;
    }

    let out = order.get(k).map_or(f64::NEG_INFINITY, |&e| c[e]); // where k = E nobody is left out (OKR-ZONE-008)
    let edge = c[order[if boundary { k - 1 } else { 0 }]] - epsilon;
    let mut members: Vec<usize> = (0..c.len()).filter(|&e| boundary && c[e] > out + epsilon).collect();
    // The edge may be -inf, and the barred are not beyond it (OKR-ZONE-009).
    let inside = |&e: &usize| c[e] >= edge && c[e] > f64::NEG_INFINITY && !members.contains(&e);
    let mut pool: Vec<usize> = (0..c.len()).filter(inside).collect();
    let free = k - members.len(); // never below 0, which usize would turn into a huge number
    if free == 0 || free >= pool.len() {
        return native;
    }

    // With infinite strength the sum would be infinite, or NaN where g is 0 (OKR-STR-001).
    rank(&mut pool, |e| if strength < f64::INFINITY { c[e] + strength * g[e] } else { g[e] });
    members.extend(&pool[..free]);
    order.retain(|e| members.contains(e)); // k are left, still by choice score (OKR-SEL-004)
    (order, true)
}

fn reply(request: &Json) -> Checked<String> {
    let given = request.get("arguments")?;
    match request.get("function")?.text()? {
        "projection" => {
            let secret = key::from_hex(given.get("secret")?.text()?)?;
            let number = |name| -> Checked<u32> { Ok(given.get(name)?.integer()?.try_into()?) };
            let site = [number("layer")?, number("hidden_size")?, number("num_experts")?];
            let signs = key::projection(&secret, given.get("stack")?.text()?, site)?;
            Ok(format!("{{\"projection\": {}}}", array(signs.iter().map(|row| format!("\"{row}\"")))))
        }
        "key_scores" => {
            let signs: Checked<Vec<&str>> = given.get("projection")?.list()?.iter().map(Json::text).collect();
            let (signs, mut scores) = (signs?, Vec::new());
            for hidden in given.get("hidden")?.list()? {
                scores.push(array(key_scores(&hidden.numbers()?, &signs).into_iter().map(hex)));
            }
            Ok(format!("{{\"key_scores\": {}}}", array(scores)))
        }
        "select" => {
            let (k, experts) = (given.get("top_k")?.integer()?, given.get("experts")?.integer()?);
            let (epsilon, strength) = (given.get("epsilon")?.number()?, given.get("strength")?.number()?);
            let zone = given.get("zone")?.text()?;
            // Each number must pass. NaN would not fail a test such as epsilon < 0 (OKR-ZONE-001).
            let known = zone == "max" || zone == "boundary";
            if !(known && 1 <= k && k <= experts && epsilon >= 0.0 && strength > 0.0) {
                return Err("a setting is out of range".into());
            }
            let (mut indices, mut opportunity) = (Vec::new(), Vec::new());
            for (choice, key) in given.get("choice")?.list()?.iter().zip(given.get("key_scores")?.list()?) {
                let (choice, key) = (choice.numbers()?, key.numbers()?);
                let (runs, free) = select(&choice, &key, k as usize, epsilon, zone == "boundary", strength);
                indices.push(array(runs.iter().map(usize::to_string)));
                opportunity.push(free.to_string());
            }
            Ok(format!("{{\"indices\": {}, \"opportunity\": {}}}", array(indices), array(opportunity)))
        }
        _ => Ok("{\"unsupported\": true}".into()),
    }
}

fn main() {
    for line in std::io::stdin().lines() {
        let line = line.expect("the suite writes UTF-8");
        let answer = read(&mut line.as_str()).and_then(|request| reply(&request));
        // Rust writes out every whole line, to a pipe too. Other languages hold it back until told to flush.
        println!("{}", answer.unwrap_or_else(|error| format!("{{\"error\": \"{error}\"}}")));
    }
}
