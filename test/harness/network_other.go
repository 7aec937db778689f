//go:build !linux

package harness

import "errors"

func (n *Network) open(int) error { return errors.ErrUnsupported }

func (n *nursery) mount(string, int) error { return errors.ErrUnsupported }
