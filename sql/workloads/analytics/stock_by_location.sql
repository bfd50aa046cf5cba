SELECT w.code AS warehouse, z.kind, l.code AS location, lot.id AS lot, lot.expires_on, i.on_hand, i.reserved
  FROM product p
  JOIN lot ON lot.product_id = p.id
  JOIN inventory i ON i.lot_id = lot.id
  JOIN location l ON l.id = i.location_id
  JOIN zone z ON z.id = l.zone_id
  JOIN warehouse w ON w.id = z.warehouse_id
 WHERE p.id = :product AND i.on_hand > 0
 ORDER BY lot.expires_on, lot.id, l.id
