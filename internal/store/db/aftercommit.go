package db

// AfterCommit has f run once the transaction of q is durable, before Write
// answers; f does not run where the transaction is undone. This is the place to
// publish what was written. f must not block. Outside of a store's Write it
// panics: there is no commit to wait for.
func (q *Queries) AfterCommit(f func()) {
	q.db.(interface{ AfterCommit(f func()) }).AfterCommit(f)
}

// Writing reports whether q is a Write's: what it reads may then be a row of
// this transaction that never becomes durable.
func (q *Queries) Writing() bool {
	_, ok := q.db.(interface{ AfterCommit(f func()) })
	return ok
}
