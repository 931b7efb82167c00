"""What all pages share: skeleton and style, pictures, numbers, tables and plots that open offline."""
