SELECT w.code AS warehouse, c.path AS category, p.sku, lot.id AS lot, lot.expires_on, sum(i.on_hand) AS qty,
       sum(i.on_hand * pol.unit_cost) AS value
  FROM lot
  JOIN purchase_order_line pol ON pol.purchase_order_id = lot.purchase_order_id AND pol.line = lot.line
  JOIN product p ON p.id = lot.product_id
  JOIN category c ON c.id = p.category_id
  JOIN inventory i ON i.lot_id = lot.id
  JOIN location l ON l.id = i.location_id
  JOIN zone z ON z.id = l.zone_id
  JOIN warehouse w ON w.id = z.warehouse_id
 WHERE lot.expires_on BETWEEN :last_day::date AND :last_day::date + 30 AND i.on_hand > 0
 GROUP BY w.code, c.path, p.sku, lot.id
 ORDER BY lot.expires_on, lot.id, w.code
