package main

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// tableWidth is how many columns a table takes at most; tableGap, how many blanks stand between two.
const (
	tableWidth = 120
	tableGap   = 2
)

// writeRows prints a table. Cells are clipped to their column's width, and cleaned of what a terminal acts on.
func writeRows(w io.Writer, rows [][]string, widths []int) {
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			fmt.Fprintf(&line, "%-*s", widths[i]+tableGap, clip(cell, widths[i]))
		}
		fmt.Fprintln(w, strings.TrimRight(line.String(), " "))
	}
}

// columnWidths are those of the longest cells; where a line would be longer than limit, the widest columns give way, one character at a time.
func columnWidths(rows [][]string, limit int) []int {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	total := tableGap * (len(widths) - 1)
	for _, w := range widths {
		total += w
	}
	for ; total > limit; total-- {
		widest := 0
		for i, w := range widths {
			if w > widths[widest] {
				widest = i
			}
		}
		widths[widest]--
	}
	return widths
}
