package main

import (
	"io"
	"iter"
	"strconv"

	"github.com/spf13/cobra"
)

// maxPage bounds a page of every list.
const maxPage = 1000

// page is the paging of a list: one page, or all.
type page struct {
	limit int
	token string
	all   bool
}

func (pg *page) flags(cmd *cobra.Command) {
	cmd.Flags().IntVar(&pg.limit, "limit", 100, "entries a page, at most 1000")
	cmd.Flags().StringVar(&pg.token, "page", "", "page to show, as the former one named it")
	cmd.Flags().BoolVar(&pg.all, "all", false, "every page")
	cmd.PreRunE = func(*cobra.Command, []string) error { return pg.check() }
}

func (pg *page) check() error {
	if pg.limit < 1 || pg.limit > maxPage {
		return usagef("--limit is %d: it is 1 to %d", pg.limit, maxPage)
	}
	if pg.all && pg.token != "" {
		return usagef("--all and --page exclude each other")
	}
	return nil
}

// offset is the page's first entry in lists that are put together here, whose
// pages are named by it.
func (pg *page) offset() (int, error) {
	if pg.token == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(pg.token)
	if err != nil || n < 1 {
		return 0, usagef("--page %q is no page of this list", pg.token)
	}
	return n, nil
}

// cut takes the page out of a list, and names the next one.
func cut[T any](pg *page, list []T) (shown []T, next string, err error) {
	from, err := pg.offset()
	if err != nil {
		return nil, "", err
	}
	from = min(from, len(list))
	to := len(list)
	if !pg.all && len(list)-from > pg.limit {
		to = from + pg.limit
		next = strconv.Itoa(to)
	}
	return list[from:to], next, nil
}

// take walks a sequence up to the end of the page, keeping what fits.
func take[T any](pg *page, seq iter.Seq2[T, error], fits func(T) bool) (shown []T, next string, err error) {
	from, err := pg.offset()
	if err != nil {
		return nil, "", err
	}
	n := 0
	for v, err := range seq {
		if err != nil {
			return nil, "", err
		}
		if fits != nil && !fits(v) {
			continue
		}
		if n >= from {
			if !pg.all && len(shown) == pg.limit {
				return shown, strconv.Itoa(n), nil
			}
			shown = append(shown, v)
		}
		n++
	}
	return shown, "", nil
}

// follow collects pages that the server names, one or all.
func follow[T any](pg *page, fetch func(token string, limit int) ([]T, string, error)) ([]T, string, error) {
	if !pg.all {
		return fetch(pg.token, pg.limit)
	}
	var all []T
	token := ""
	for {
		list, next, err := fetch(token, maxPage)
		if err != nil {
			return nil, "", err
		}
		all = append(all, list...)
		if next == "" {
			return all, "", nil
		}
		token = next
	}
}

// list prints a page of a list: {"NAME":[…],"next":"…"}, or a table, and how to go on.
// A page behind the end is empty and no error: lists grow shorter between two pages.
func list[T any](c *cli, pg *page, name string, views []T, next string, heading []string, row func(T) []string) error {
	if views == nil {
		views = []T{} // an empty list is [] and not null
	}
	err := c.emit(map[string]any{name: views, "next": next}, func(w io.Writer) {
		rows := make([][]string, 0, len(views))
		for _, v := range views {
			rows = append(rows, row(v))
		}
		table(w, heading, rows)
	})
	switch {
	case err != nil:
		return err
	case next != "":
		c.note("more: --page %s", next)
	case len(views) == 0 && pg.token != "":
		c.note("nothing is on the page %s: the list ends before it", pg.token)
	}
	return nil
}
