--: keep
INSERT INTO purchase_order (supplier_id, warehouse_id, ordered_at, expected_on, status)
SELECT id, :warehouse, now(), current_date + lead_days, 'open' FROM supplier WHERE id = :supplier
RETURNING id AS purchase;

INSERT INTO purchase_order_line (purchase_order_id, line, product_id, qty, unit_cost)
SELECT :purchase, row_number() OVER (ORDER BY wanted.id), wanted.id, :qty,
       (SELECT cost FROM price_history h WHERE h.product_id = wanted.id ORDER BY valid_from DESC LIMIT 1)
  FROM unnest(:products::int[]) AS wanted (id);
