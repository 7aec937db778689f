package domain

// MaxIDBytes limits the length of an id, a pool's name and a label's key.
const MaxIDBytes = 128

// CheckID reports an error (InvalidError about field) unless id is 1 to 128
// characters of A-Z a-z 0-9 . _ : - and begins with a letter or a digit.
func CheckID(field, id string) error {
	switch {
	case id == "":
		return invalid(field, "must not be empty")
	case len(id) > MaxIDBytes:
		return invalid(field, "is %d bytes long, more than %d", len(id), MaxIDBytes)
	case !isAlphanumeric(id[0]):
		return invalid(field, "must begin with a letter or a digit: %q", id)
	}
	for i := range len(id) {
		if c := id[i]; !isAlphanumeric(c) && c != '.' && c != '_' && c != ':' && c != '-' {
			return invalid(field, "may only have letters, digits and . _ : - in it: %q", id)
		}
	}
	return nil
}

func isAlphanumeric(c byte) bool {
	return isDigit(c) || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
