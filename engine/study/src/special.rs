//! Quantiles and distribution functions of the normal and the beta distribution.
//!
//! Own code, so that no further crate is needed for four functions: the normal quantile is Wichura's AS 241 (PPND16, relative
//! error near 1e-16), the error function its Taylor series and Laplace's continued fraction (DLMF 7.6.2, 7.9.1), the
//! incomplete beta function the continued fraction of DLMF 8.17.22, and the gamma function Lanczos' sum (g = 7, 9 terms).

// Published constants, kept digit by digit as their authors give them.
#![expect(
    clippy::excessive_precision,
    reason = "constants stand as they were published"
)]

/// Below this a probability is taken for this: the quantile of 0 has no bound.
const LEAST: f64 = 1.0 / (1_u64 << 54) as f64;

fn polynomial(x: f64, coefficients: &[f64]) -> f64 {
    coefficients.iter().rev().fold(0.0, |sum, c| sum * x + c)
}

/// The value of a standard normal variable that is not exceeded with probability `p`.
pub(crate) fn normal_quantile(p: f64) -> f64 {
    let p = p.clamp(LEAST, 1.0 - LEAST * 2.0);
    let q = p - 0.5;
    if q.abs() <= 0.425 {
        let r = 0.180_625 - q * q;
        return q * polynomial(r, &CENTRE.0) / polynomial(r, &CENTRE.1);
    }
    let tail = if q < 0.0 { p } else { 1.0 - p };
    let r = (-tail.ln()).sqrt();
    let x = if r <= 5.0 {
        polynomial(r - 1.6, &MIDDLE.0) / polynomial(r - 1.6, &MIDDLE.1)
    } else {
        polynomial(r - 5.0, &FAR.0) / polynomial(r - 5.0, &FAR.1)
    };
    if q < 0.0 { -x } else { x }
}

const CENTRE: ([f64; 8], [f64; 8]) = (
    [
        3.387_132_872_796_366_608_0e0,
        1.331_416_678_917_843_774_5e2,
        1.971_590_950_306_551_442_7e3,
        1.373_169_376_550_946_112_5e4,
        4.592_195_393_154_987_145_7e4,
        6.726_577_092_700_870_085_3e4,
        3.343_057_558_358_812_810_5e4,
        2.509_080_928_730_122_672_7e3,
    ],
    [
        1.0,
        4.231_333_070_160_091_125_2e1,
        6.871_870_074_920_579_083_0e2,
        5.394_196_021_424_751_107_7e3,
        2.121_379_430_158_659_586_7e4,
        3.930_789_580_009_271_061_0e4,
        2.872_908_573_572_194_267_4e4,
        5.226_495_278_852_854_561_0e3,
    ],
);
const MIDDLE: ([f64; 8], [f64; 8]) = (
    [
        1.423_437_110_749_683_577_34e0,
        4.630_337_846_156_545_295_90e0,
        5.769_497_221_460_691_405_50e0,
        3.647_848_324_763_204_605_04e0,
        1.270_458_252_452_368_382_58e0,
        2.417_807_251_774_506_117_70e-1,
        2.272_384_498_926_918_458_33e-2,
        7.745_450_142_783_414_076_40e-4,
    ],
    [
        1.0,
        2.053_191_626_637_758_821_87e0,
        1.676_384_830_183_803_849_40e0,
        6.897_673_349_851_000_045_50e-1,
        1.481_039_764_274_800_745_90e-1,
        1.519_866_656_361_645_719_66e-2,
        5.475_938_084_995_344_946_00e-4,
        1.050_750_071_644_416_843_24e-9,
    ],
);
const FAR: ([f64; 8], [f64; 8]) = (
    [
        6.657_904_643_501_103_777_20e0,
        5.463_784_911_164_114_369_90e0,
        1.784_826_539_917_291_335_80e0,
        2.965_605_718_285_048_912_30e-1,
        2.653_218_952_657_612_309_30e-2,
        1.242_660_947_388_078_438_60e-3,
        2.711_555_568_743_487_578_15e-5,
        2.010_334_399_292_288_132_65e-7,
    ],
    [
        1.0,
        5.998_322_065_558_879_376_90e-1,
        1.369_298_809_227_358_053_10e-1,
        1.487_536_129_085_061_485_25e-2,
        7.868_691_311_456_132_591_00e-4,
        1.846_318_317_510_054_681_80e-5,
        1.421_511_758_316_445_888_70e-7,
        2.044_263_103_389_939_785_64e-15,
    ],
);

/// The probability that a standard normal variable is at most `x`.
pub(crate) fn normal_cdf(x: f64) -> f64 {
    let z = x.abs() / std::f64::consts::SQRT_2;
    let upper = 0.5 * erfc(z);
    if x < 0.0 { upper } else { 1.0 - upper }
}

/// The complementary error function of a number of at least 0.
fn erfc(z: f64) -> f64 {
    if z < 2.5 {
        let (mut term, mut sum, mut n) = (z, z, 0.0);
        while term > sum * 1e-17 {
            n += 1.0;
            term *= 2.0 * z * z / (2.0 * n + 1.0);
            sum += term;
        }
        return 1.0 - std::f64::consts::FRAC_2_SQRT_PI * (-z * z).exp() * sum;
    }
    let fraction = (1..=60)
        .rev()
        .fold(0.0, |below, k| f64::from(k) / 2.0 / (z + below));
    (-z * z).exp() / (std::f64::consts::PI.sqrt() * (z + fraction))
}

/// The logarithm of the gamma function of a number above 0.
fn ln_gamma(x: f64) -> f64 {
    const TERMS: [f64; 8] = [
        676.520_368_121_885_1,
        -1_259.139_216_722_402_8,
        771.323_428_777_653_13,
        -176.615_029_162_140_59,
        12.507_343_278_686_905,
        -0.138_571_095_265_720_12,
        9.984_369_578_019_571_6e-6,
        1.505_632_735_149_311_6e-7,
    ];
    if x < 0.5 {
        return (std::f64::consts::PI / (std::f64::consts::PI * x).sin()).ln() - ln_gamma(1.0 - x);
    }
    let x = x - 1.0;
    let sum = TERMS
        .iter()
        .zip(1_u8..)
        .fold(0.999_999_999_999_809_93, |sum, (c, i)| {
            sum + c / (x + f64::from(i))
        });
    let t = x + 7.5;
    0.5 * (2.0 * std::f64::consts::PI).ln() + (x + 0.5) * t.ln() - t + sum.ln()
}

/// The probability that a beta variable is at most `x`.
pub(crate) fn beta_cdf(alpha: f64, beta: f64, x: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    let front = (alpha * x.ln() + beta * (-x).ln_1p() - ln_beta(alpha, beta)).exp();
    if x < (alpha + 1.0) / (alpha + beta + 2.0) {
        front * fraction(alpha, beta, x) / alpha
    } else {
        1.0 - front * fraction(beta, alpha, 1.0 - x) / beta
    }
}

fn ln_beta(alpha: f64, beta: f64) -> f64 {
    ln_gamma(alpha) + ln_gamma(beta) - ln_gamma(alpha + beta)
}

/// The continued fraction of the incomplete beta function, by Lentz' method.
fn fraction(a: f64, b: f64, x: f64) -> f64 {
    let away = |v: f64| if v.abs() < 1e-300 { 1e-300 } else { v };
    let mut c = 1.0;
    let mut d = 1.0 / away(1.0 - (a + b) * x / (a + 1.0));
    let mut value = d;
    for m in 1..10_000 {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let mut factor = 1.0;
        for step in [even, odd] {
            d = 1.0 / away(1.0 + step * d);
            c = away(1.0 + step / c);
            factor = c * d;
            value *= factor;
        }
        if (factor - 1.0).abs() < 1e-16 {
            break;
        }
    }
    value
}

/// The value of a beta variable that is not exceeded with probability `p`: Newton's steps, kept between bounds by bisection.
pub(crate) fn beta_quantile(alpha: f64, beta: f64, p: f64) -> f64 {
    if p <= 0.0 {
        return 0.0;
    }
    if p >= 1.0 {
        return 1.0;
    }
    let scale = ln_beta(alpha, beta);
    let (mut low, mut high) = (0.0_f64, 1.0_f64);
    let mut x = alpha / (alpha + beta);
    for _ in 0..400 {
        let off = beta_cdf(alpha, beta, x) - p;
        if off == 0.0 {
            break;
        }
        if off > 0.0 {
            high = x;
        } else {
            low = x;
        }
        let density = ((alpha - 1.0) * x.ln() + (beta - 1.0) * (-x).ln_1p() - scale).exp();
        let step = x - off / density;
        let next = if step > low && step < high {
            step
        } else {
            0.5 * (low + high)
        };
        if (next - x).abs() <= x * 1e-15 {
            return next;
        }
        x = next;
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(got: f64, expected: f64, relative: f64) {
        assert!(
            (got - expected).abs() <= relative * expected.abs().max(1e-300),
            "{got:e} is not {expected:e}"
        );
    }

    #[test]
    fn normal_quantiles_are_those_of_the_tables() {
        for (p, x) in [
            (0.5, 0.0),
            (0.975, 1.959_963_984_540_054),
            (0.025, -1.959_963_984_540_054),
            (0.9, 1.281_551_565_544_600_4),
            (0.001, -3.090_232_306_167_813),
            (1e-9, -5.997_807_015_007_687),
            (1e-14, -7.650_628_092_935_267),
        ] {
            near(normal_quantile(p), x, 2e-14);
        }
        assert!(normal_quantile(0.0).is_finite() && normal_quantile(1.0).is_finite());
        assert!(normal_quantile(0.0) < -8.0 && normal_quantile(1.0) > 8.0);
    }

    #[test]
    fn normal_probabilities_are_those_of_the_tables() {
        for (x, p) in [
            (0.0, 0.5),
            (1.0, 0.841_344_746_068_542_9),
            (-1.0, 0.158_655_253_931_457_05),
            (-3.0, 1.349_898_031_630_094_5e-3),
            (-3.7, 1.077_997_334_773_883_6e-4),
            (-6.0, 9.865_876_450_376_98e-10),
        ] {
            near(normal_cdf(x), p, 2e-13);
        }
    }

    #[test]
    fn beta_quantiles_agree_with_closed_forms() {
        for i in 1..200 {
            let p = f64::from(i) / 200.0;
            for shape in [0.3, 1.0, 2.5, 40.0] {
                near(beta_quantile(shape, 1.0, p), p.powf(1.0 / shape), 1e-11);
                near(
                    beta_quantile(1.0, shape, p),
                    1.0 - (1.0 - p).powf(1.0 / shape),
                    1e-10,
                );
            }
            let arcsine = (std::f64::consts::FRAC_PI_2 * p).sin().powi(2);
            near(beta_quantile(0.5, 0.5, p), arcsine, 1e-10);
            let x = beta_quantile(2.0, 2.0, p);
            near(3.0 * x * x - 2.0 * x * x * x, p, 1e-12);
        }
    }

    #[test]
    fn beta_goes_there_and_back_for_hard_shapes() {
        for (alpha, beta) in [
            (0.05, 3.0),
            (3.0, 0.05),
            (500.0, 2.0),
            (1e4, 1e4),
            (0.2, 0.2),
        ] {
            for p in [1e-6, 0.01, 0.3, 0.5, 0.7, 0.99] {
                let x = beta_quantile(alpha, beta, p);
                assert!((0.0..=1.0).contains(&x));
                // Nearer to 1 a float has too few digits left to tell.
                if x > 1e-200 && x < 1.0 - 1e-6 {
                    near(beta_cdf(alpha, beta, x), p, 1e-8);
                }
            }
        }
    }
}
