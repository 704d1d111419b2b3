package sdk

// DecodeConfig reads the resource's settings into a pointer to a struct. It is
// strict: fields that the struct does not have are an error.
func DecodeConfig(r Resource, into any) error { panic("unbuilt") }
