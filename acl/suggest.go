package acl

import "strings"

// Bounds on looking for what was meant. Errors and names are both the writer's to multiply.
const (
	maxComparisons = 20_000 // in one Parse
	maxCompared    = 64     // bytes of a name
)

// suggester looks for the known name nearest to an unknown one.
type suggester struct{ spent int }

// nearest returns the candidate with the fewest edits from s, at most a third of its length, case aside; "" when there is none.
// The first of equals wins, so candidates come in a fixed order.
func (g *suggester) nearest(s string, candidates []string) string {
	best, limit := "", len(s)/3+1
	for _, c := range candidates {
		if g.spent++; g.spent > maxComparisons {
			return best
		}
		if strings.EqualFold(s, c) {
			return c
		}
		if len(s) > maxCompared || len(c) > maxCompared || len(c) > len(s)+limit || len(s) > len(c)+limit {
			continue
		}
		if n := distance(strings.ToLower(s), strings.ToLower(c), limit); n < limit {
			best, limit = c, n
		}
	}
	return best
}

// distance is the number of single-character edits (insert, delete, replace, swap of neighbours) from a to b, or limit if that many or more.
func distance(a, b string, limit int) int {
	x, y := []rune(a), []rune(b)
	var prior []int
	last, row := make([]int, len(y)+1), make([]int, len(y)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(x); i++ {
		row[0] = i
		low := i
		for j := 1; j <= len(y); j++ {
			cost := 1
			if x[i-1] == y[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && x[i-1] == y[j-2] && x[i-2] == y[j-1] {
				row[j] = min(row[j], prior[j-2]+1)
			}
			low = min(low, row[j])
		}
		if low >= limit {
			return limit
		}
		prior, last, row = last, row, make([]int, len(y)+1)
	}
	return min(last[len(y)], limit)
}
