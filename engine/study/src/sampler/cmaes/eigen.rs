//! Eigenvectors of a symmetric matrix, by Jacobi's rotations.

/// A square matrix by rows.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Matrix {
    pub(super) dims: usize,
    cells: Vec<f64>,
}

impl Matrix {
    pub(super) fn identity(dims: usize) -> Self {
        let mut matrix = Self {
            dims,
            cells: vec![0.0; dims * dims],
        };
        for at in 0..dims {
            *matrix.at(at, at) = 1.0;
        }
        matrix
    }

    pub(super) fn get(&self, row: usize, column: usize) -> f64 {
        self.cells[row * self.dims + column]
    }

    pub(super) fn at(&mut self, row: usize, column: usize) -> &mut f64 {
        &mut self.cells[row * self.dims + column]
    }

    pub(super) fn times(&self, x: &[f64]) -> Vec<f64> {
        let rows = self.cells.chunks_exact(self.dims);
        rows.map(|row| row.iter().zip(x).map(|(a, b)| a * b).sum())
            .collect()
    }

    pub(super) fn transposed_times(&self, x: &[f64]) -> Vec<f64> {
        let mut product = vec![0.0; self.dims];
        for (row, x) in self.cells.chunks_exact(self.dims).zip(x) {
            for (sum, a) in product.iter_mut().zip(row) {
                *sum += a * x;
            }
        }
        product
    }

    /// The eigenvalues, and the eigenvectors as columns. The matrix has to be symmetric.
    pub(super) fn eigen(&self) -> (Vec<f64>, Matrix) {
        let dims = self.dims;
        let mut a = self.clone();
        let mut vectors = Matrix::identity(dims);
        let size: f64 = self.cells.iter().map(|x| x * x).sum();
        // Cyclic sweeps converge quadratically: six or seven are enough.
        for _ in 0..30 {
            let mut off = 0.0;
            for row in 0..dims {
                for column in row + 1..dims {
                    off += a.get(row, column).powi(2);
                }
            }
            if off <= 1e-30 * size {
                break;
            }
            for row in 0..dims {
                for column in row + 1..dims {
                    a.rotate(row, column, &mut vectors);
                }
            }
        }
        ((0..dims).map(|at| a.get(at, at)).collect(), vectors)
    }

    /// Makes one pair of cells zero (Numerical Recipes' form of the rotation, which loses no digits).
    fn rotate(&mut self, p: usize, q: usize, vectors: &mut Matrix) {
        let off = self.get(p, q);
        if off == 0.0 {
            return;
        }
        let theta = (self.get(q, q) - self.get(p, p)) / (2.0 * off);
        let t = theta.signum() / (theta.abs() + theta.hypot(1.0));
        let c = 1.0 / t.hypot(1.0);
        let s = t * c;
        for at in 0..self.dims {
            let (x, y) = (self.get(at, p), self.get(at, q));
            *self.at(at, p) = c * x - s * y;
            *self.at(at, q) = s * x + c * y;
        }
        for at in 0..self.dims {
            let (x, y) = (self.get(p, at), self.get(q, at));
            *self.at(p, at) = c * x - s * y;
            *self.at(q, at) = s * x + c * y;
        }
        for at in 0..self.dims {
            let (x, y) = (vectors.get(at, p), vectors.get(at, q));
            *vectors.at(at, p) = c * x - s * y;
            *vectors.at(at, q) = s * x + c * y;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::Chance;

    #[test]
    fn vectors_times_values_give_the_matrix_again() {
        let mut chance = Chance(3);
        for dims in [1, 2, 3, 5, 12, 40] {
            let mut matrix = Matrix::identity(dims);
            for row in 0..dims {
                for column in 0..=row {
                    let scale = 10_f64.powi(chance.below(7) as i32 - 3);
                    let x = (chance.unit() - 0.5) * scale;
                    *matrix.at(row, column) = x;
                    *matrix.at(column, row) = x;
                }
            }
            let (values, vectors) = matrix.eigen();
            for (column, value) in values.iter().enumerate() {
                let vector: Vec<f64> = (0..dims).map(|row| vectors.get(row, column)).collect();
                let length: f64 = vector.iter().map(|x| x * x).sum();
                assert!((length - 1.0).abs() < 1e-12);
                for (a, b) in matrix.times(&vector).iter().zip(&vector) {
                    assert!((a - value * b).abs() < 1e-9, "{dims}");
                }
                assert_eq!(vectors.transposed_times(&vector).len(), dims);
            }
        }
    }
}
