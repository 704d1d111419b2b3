package main

import "context"

func overdue(ctx context.Context, o options) ([]*table, error) { return nil, nil }
func longLog(ctx context.Context, o options) ([]*table, error) { return nil, nil }
func hung(ctx context.Context, o options) ([]*table, error)    { return nil, nil }
func scheduled(ctx context.Context, o options) ([]*table, error) { return nil, nil }
