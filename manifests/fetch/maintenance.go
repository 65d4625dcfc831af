package fetch

import (
	"context"
	"errors"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/store"
)

// Rollback makes the installation before the current one the current one, once every file of it was
// verified.
func (c *Client) Rollback(ctx context.Context) (Install, error) {
	if _, err := c.Store.Previous(); err != nil {
		return Install{}, err
	}
	l, err := c.Store.Lock(ctx, c.Command, c.Waiting)
	if err != nil {
		return Install{}, err
	}
	i, err := l.Previous()
	if err == nil {
		_, err = c.verify(ctx, i)
	}
	if err == nil {
		err = l.Rollback(i)
	}
	return i, errors.Join(err, l.Close())
}

// Uninstall removes everything that the client put into the store, and the store itself.
func (c *Client) Uninstall(ctx context.Context) (store.Contents, error) {
	l, err := c.Store.Lock(ctx, c.Command, c.Waiting)
	if err != nil {
		return store.Contents{}, err
	}
	contents, err := l.Uninstall()
	return contents, errors.Join(err, l.Close())
}

// Prune removes what no installation needs that a machine uses.
func (c *Client) Prune(ctx context.Context) ([]Item, error) {
	l, err := c.Store.Lock(ctx, c.Command, c.Waiting)
	if err != nil {
		return nil, err
	}
	items, err := l.Prune()
	return items, errors.Join(err, l.Close())
}
