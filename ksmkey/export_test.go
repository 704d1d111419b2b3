package ksmkey

// WithoutTable calls f as if the SDK had renamed its table.
func WithoutTable(f func()) {
	former := table
	table = nil
	defer func() { table = former }()
	f()
}
